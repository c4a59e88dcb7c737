"""Budgets of storage and arithmetic: known before anything is trained, or even built."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from studies import Numbers, Recipes, run, study_of
from torch import nn

from lightning_adls import search
from lightning_adls.formats import NumberFormat
from lightning_adls.search import FormatSpace, Limits, RecipeCosts, Search
from lightning_adls.transforms import Quantize, costs
from lightning_adls.transforms.bit_operations import bit_operations, macs_of

BUDGETS = ("bits_per_weight", "size_mb", "bit_operations")


class Net(nn.Module):
    """Layers of two kinds, two of which share a weight, and one that no recipe reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.conv = nn.Conv1d(32, 8, 3)
        self.head = nn.Bilinear(8, 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(self.embed(x)))
        pooled = self.conv(hidden.mT).mean(-1)
        output: torch.Tensor = self.head(pooled, pooled)
        return output


class Countable(Net):
    """All that it multiplies is known to torch's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential()  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.conv(self.second(self.first(self.embed(x))).mT).mean(-1)
        return pooled


TOKENS = torch.ones(1, 5, dtype=torch.int64)
LAYERS = ("first", "second", "conv")
formats = st.sampled_from([None, *(str(cls()) for cls in NumberFormat.classes.values())])
choices = st.fixed_dictionaries({"input": formats, "weight": formats, "bias": formats})


def quantised(make: type[Net], recipe: Quantize) -> Net:
    torch.manual_seed(0)
    model = make()
    recipe(model)
    return model


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(LAYERS, choices)), min_size=1, max_size=3))
def test_foreseen_costs_are_those_of_the_model_in_any_order(recipes: list[Any]) -> None:
    known = RecipeCosts(Net())
    for recipe in map(Quantize, recipes):
        assert known(recipe) == costs(quantised(Net, recipe))


@pytest.mark.parametrize("name", NumberFormat.classes)
def test_foreseen_costs_of_every_format_are_those_of_the_model(name: str) -> None:
    model, recipe = Countable(), Quantize({"*": str(NumberFormat.classes[name]())})
    macs = macs_of(model, TOKENS)
    made = quantised(Countable, recipe)
    expected = {**costs(made), "bit_operations": bit_operations(made, macs)}
    assert RecipeCosts(model, macs)(recipe) == expected


def test_costs_are_foreseen_without_making_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    known, made = RecipeCosts(Net()), Quantize({"*": "MXInt(width=4)"})
    other = Quantize({"first": "MXInt(width=4)", "second": "MXInt(width=8)"})
    expected = [costs(quantised(Net, recipe)) for recipe in (made, other)]
    assert [known(recipe) for recipe in (made, other)] == expected

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Quantize, "__call__", never)
    assert known(made) == expected[0]
    with pytest.raises(AssertionError):  # a weight that is stored in two formats
        known(other)
    with pytest.raises(ValueError, match="pattern 'third' matches none"):
        known(Quantize({"third": "MXInt(width=4)"}))


def test_costs_of_an_attention_and_of_what_cannot_be_rounded_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), nn.Linear(32, 4))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    for made in (model, nn.Sequential(nn.Linear(4, 4), parametrized)):
        known = RecipeCosts(made)
        for choice in ("LearnedInteger(width=4)", {"input": "MXInt", "weight": "Ternary"}):
            recipe = Quantize({"0*": choice})
            rounded = deepcopy(made)
            recipe(rounded)
            assert known(recipe) == costs(rounded)


def test_what_foresees_leaves_the_network_as_it_is() -> None:
    model = Net()
    before = repr(model), [id(p) for p in model.parameters()]
    RecipeCosts(model)(Quantize(dict.fromkeys(LAYERS, "MXInt(width=4)")))
    assert (repr(model), [id(p) for p in model.parameters()]) == before


def space_of(layers: tuple[str, ...]) -> FormatSpace:
    """Small enough to be enumerated."""
    learned = {"input": ("LearnedInteger(width=4)", "none"), "bias": ("none",)}
    return FormatSpace(
        layers,
        {
            "A": {**learned, "weight": ("Integer(width=6)",)},
            "B": {
                "input": ("Integer(width=3)", "MXInt(width=2, block_size=32)"),
                "weight": ("Ternary(scale='per_channel')", "none"),
                "bias": ("none", "LearnedInteger(width=4)"),
            },
        },
    )


def points_of(space: Any) -> list[Quantize]:
    each = [
        dict(zip(roles, texts, strict=True))
        for roles in space.classes.values()
        for texts in product(*roles.values())
    ]
    none = [{role: None if t == "none" else t for role, t in texts.items()} for texts in each]
    recipes = product(none, repeat=len(space.layers))
    return [Quantize(dict(zip(space.layers, recipe, strict=True))) for recipe in recipes]


@pytest.mark.parametrize("layers", [("*",), ("first", "conv"), ("conv", "*t")])
def test_the_least_of_a_space_is_the_least_of_all_its_points(layers: tuple[str, ...]) -> None:
    model, space = Countable(), space_of(layers)
    model.second.weight = nn.Parameter(torch.zeros(32, 32))
    known = RecipeCosts(model, macs_of(model, TOKENS))
    every = [known(recipe) for recipe in points_of(space)]
    assert len(every) == space.points
    assert known.least(space) == {name: min(each[name] for each in every) for name in BUDGETS}


amounts = st.floats(0.01, 100)


@given(st.dictionaries(st.sampled_from(BUDGETS), amounts, min_size=1))
def test_a_cost_is_over_its_limit_where_it_is_above(limits: dict[str, float]) -> None:
    arguments: dict[str, Any] = dict(limits)
    at = Limits(**arguments)
    assert at.reason(limits) is None
    assert set(at.excess(limits).values()) == {0.0}
    for name, limit in limits.items():
        over = {**limits, name: 1.5 * limit}
        assert at.excess(over)[name] == pytest.approx(0.5)
        reason = at.reason(over)
        assert reason is not None
        assert reason.startswith(f"{name}=")
        assert at.reason({other: v for other, v in over.items() if other != name}) is None


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_budgets_that_are_no_amounts_are_refused(name: str, value: float) -> None:
    limits: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"Limits: {name}={value} is not a number above 0"):
        Limits(**limits)


@pytest.fixture
def network(build: Callable[[list[Any]], L.LightningModule]) -> nn.Module:
    return build([]).get_submodule("model")


@pytest.mark.parametrize("foreseen", [True, False])
def test_what_is_over_its_budget_is_neither_trained_nor_foreseen_to_be_built(
    quick: Recipes, network: nn.Module, tmp_path: Path, foreseen: bool
) -> None:
    built: list[Quantize] = []

    def building(recipe: Quantize) -> L.LightningModule:
        built.append(recipe)
        return quick.build(recipe)

    objective = replace(
        quick,
        build=building,
        limits=Limits(bits_per_weight=4),
        foresee=RecipeCosts(network) if foreseen else None,
    )
    study = study_of(tmp_path / "journal")
    run(study, objective, 4, "grid")
    free = study_of(tmp_path / "free")
    run(free, quick, 4, "grid")
    for trial, other in zip(search.counted_trials(study), search.counted_trials(free), strict=True):
        assert trial.user_attrs["bits_per_weight"] == other.user_attrs["bits_per_weight"]
        if other.user_attrs["bits_per_weight"] <= 4:
            assert trial.value == other.value
            assert trial.constraints == {"bits_per_weight": -0.25}
        else:
            assert trial.state == TrialState.PRUNED
            assert trial.user_attrs["over_limit"] == "bits_per_weight=8, limit 4"
            assert trial.constraints == {"bits_per_weight": 1.0}
            assert trial.user_attrs["choice"] == other.user_attrs["choice"]
    # Those of width 8 are two of four.
    assert len(built) == (2 if foreseen else 4)


@pytest.mark.parametrize(
    "sampler", [RandomSampler, TPESampler, lambda seed: NSGAIISampler(population_size=2, seed=seed)]
)
def test_foreseen_or_seen_by_a_worker_the_trials_are_the_same(
    recipes: Recipes, network: nn.Module, tmp_path: Path, sampler: Any
) -> None:
    known = RecipeCosts(network)
    sizes = sorted(known(recipe)["size_mb"] for recipe in points_of(recipes.space))
    objective = replace(recipes, train=False, limits=Limits(size_mb=sizes[len(sizes) // 2 - 1]))
    ours, theirs = study_of(tmp_path / "one"), study_of(tmp_path / "two")
    found = run(ours, replace(objective, foresee=known), 8, sampler)
    assert run(theirs, objective, 8, sampler) == found
    assert {t.state for t in ours.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_tpe_leaves_what_is_over_the_budget(
    recipes: Recipes, network: nn.Module, tmp_path: Path
) -> None:
    """It learns from trials that cost nothing."""
    ranges = {"width": [*range(3, 9)], "frac_width": [1, 2]}
    layers = ["bert.encoder.*", "bert.pooler.dense", "classifier"]
    space = FormatSpace.from_templates(layers, {"I": {"weight": "Integer"}}, ranges)
    known = RecipeCosts(network)
    limits = Limits(bits_per_weight=known.least(space)["bits_per_weight"] + 0.5)
    objective = replace(recipes, train=False, space=space, limits=limits, foresee=known)
    study = study_of(tmp_path / "journal")
    run(study, objective, 40, lambda seed: TPESampler(n_startup_trials=8, seed=seed))
    over = ["over_limit" in trial.user_attrs for trial in search.counted_trials(study)]
    assert sum(over[:8]) >= 6
    assert sum(over[-16:]) <= 8


def test_a_budget_that_no_choice_is_within_is_refused_before_any_work(
    quick: Recipes, network: nn.Module, tmp_path: Path
) -> None:
    objective = replace(quick, limits=Limits(bits_per_weight=2.5), foresee=RecipeCosts(network))
    study = study_of(tmp_path / "journal")
    with pytest.raises(ValueError, match=r"bits_per_weight=2\.5 is below 3, the least that a cho"):
        run(study, objective, 4)
    assert not study.trials
    assert not any(name.startswith("lease") for name in study.user_attrs)
    run(study, replace(objective, limits=Limits(bits_per_weight=3)), 4)


def test_a_budget_is_of_what_compression_leaves(quick: Recipes, tmp_path: Path) -> None:
    def ternary(module: L.LightningModule) -> None:
        torch.rand(1)  # as a random pruning would draw
        Quantize({"*": "Ternary"})(module.get_submodule("model"))

    objective = replace(quick, compress=ternary)
    free = run(study_of(tmp_path / "free"), objective, 2)
    assert (
        run(study_of(tmp_path / "at"), replace(objective, limits=Limits(bits_per_weight=2)), 2)
        == free
    )
    study = study_of(tmp_path / "below")
    run(study, replace(objective, limits=Limits(bits_per_weight=1.9)), 2)
    for trial in study.trials:
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["over_limit"] == "bits_per_weight=2, limit 1.9"


def test_arithmetic_is_limited(quick: Recipes, network: nn.Module, tmp_path: Path) -> None:
    tokens = torch.ones(1, 24, dtype=torch.int64)

    def with_example(recipe: Quantize) -> Any:
        module: Any = quick.build(recipe)
        module.example_input_array = (tokens, tokens)
        return module

    macs = macs_of(network, tokens, tokens)
    foreseen = [RecipeCosts(network, macs)(recipe) for recipe in points_of(quick.space)]
    least = min(each["bit_operations"] for each in foreseen)
    study = study_of(tmp_path / "journal")
    run(study, replace(quick, build=with_example, limits=Limits(bit_operations=least)), 4, "grid")
    for trial in study.trials:
        assert (trial.state == TrialState.COMPLETE) == (trial.user_attrs["bit_operations"] == least)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_workers_do_not_get_what_the_driver_foresees(quick: Recipes, network: nn.Module) -> None:
    objective = replace(quick, foresee=RecipeCosts(network))
    assert objective.__getstate__()["foresee"] is None
    assert isinstance(objective.foresee, RecipeCosts)
    Search(study_of_memory(), objective, RandomSampler, 1).objective.check_limits()


def study_of_memory() -> optuna.Study:
    storage = optuna.storages.InMemoryStorage()
    return search.open_study(storage, "study", {}, optuna.pruners.NopPruner())


@pytest.mark.parametrize("sampler", [RandomSampler, TPESampler, NSGAIISampler])
def test_recipes_above_a_budget_are_repaired_and_every_trial_is_of_use(
    recipes: Recipes, tmp_path: Path, sampler: Any
) -> None:
    network: Any = recipes.build(Quantize({"*": None})).model
    layers, widths = ["bert.*", "classifier"], {"width": [2, 3, 6, 7, 8]}
    space = FormatSpace.from_templates(layers, {"": {"weight": "MXInt"}}, widths)
    objective = replace(
        recipes,
        space=space,
        limits=Limits(bits_per_weight=3.5),
        foresee=RecipeCosts(network),
        repair=True,
        train=False,
        folder=tmp_path,
    )
    study = study_of(tmp_path / "journal")
    Search(study, objective, sampler, 3).run()
    counted = search.counted_trials(study)
    assert [trial.state.name for trial in counted] == ["COMPLETE"] * 3
    assert all(trial.user_attrs["bits_per_weight"] <= 3.5 for trial in counted)
    with pytest.raises(ValueError, match="repair=True is for recipes"):
        replace(objective, space=Numbers())  # type: ignore[arg-type]

"""Plans against all plans, and their costs against those of the quantised model."""

import random
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planned_networks import LAYERS, Trace, conv_net, cross_entropy
from torch import nn

from lightning_adls import Plan, Quantize, Scores, plan, sensitivity
from lightning_adls.formats import Integer, LearnedInteger, MXInt, NumberFormat
from lightning_adls.layers import KINDS, LayerFormats
from lightning_adls.models import bert
from lightning_adls.planning.candidates import FreeChoice, read_candidates
from lightning_adls.planning.scores import cells_of
from lightning_adls.transforms import Pack, costs
from lightning_adls.transforms.quantize import LayerChoice, layer_formats
from lightning_adls.transforms.walk import layers_of

ALL_KINDS = tuple(KINDS)


class Zoo(nn.Module):
    """A layer of each kind, weights that are shared, and what no recipe reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({kind: make()[0] for kind, make in LAYERS.items()})
        self.words = nn.Embedding(12, 8)
        self.decoder = nn.Linear(8, 12, bias=False)
        self.again = nn.Linear(8, 12)
        self.decoder.weight = self.again.weight = self.words.weight
        self.lstm = nn.LSTM(4, 4)
        self.norm = nn.LayerNorm(8)
        self.alias = self.layers["Linear"]


def scored(model: nn.Module, formats: Sequence[FreeChoice], seed: int = 0) -> Scores:
    draw = random.Random(seed)
    cells = cells_of(layers_of(model, ALL_KINDS), read_candidates(formats, "test"))
    return Scores({cell: draw.choice([0.0, draw.random()]) for cell in cells}, "test", 1, "")


def cost(model: nn.Module, recipe: Quantize, unit: str) -> float:
    rounded = deepcopy(model)
    recipe(rounded)
    return costs(rounded)[unit]


@pytest.mark.parametrize("unit", ["bits_per_weight", "size_mb"])
@pytest.mark.parametrize("kinds", [("Linear", "Conv2d"), ALL_KINDS], ids=["some", "all"])
@pytest.mark.parametrize("name", NumberFormat.classes)
def test_costs_are_those_of_the_quantised_model(
    name: str, kinds: tuple[str, ...], unit: str
) -> None:
    model, fmt = Zoo(), NumberFormat.classes[name]()
    keep = ["layers.Linear"]
    for choice in (LayerFormats(weight=fmt), LayerFormats(fmt, fmt, fmt)):
        budget: dict[str, Any] = {unit: 1e6, "keep": keep, "kinds": kinds}
        found = plan(model, scored(model, [choice]), [choice], **budget)
        assert found.cost == pytest.approx(cost(model, found.recipe, unit), rel=1e-12)
        again = deepcopy(model)
        Quantize({"*": MXInt(2), "lstm.*": None}, ALL_KINDS)(
            again
        )  # what was rounded before does not count
        assert plan(again, scored(model, [choice]), [choice], **budget).cost == pytest.approx(
            cost(again, found.recipe, unit), rel=1e-12
        )


FOUR: list[LayerChoice] = [
    {"weight": Integer(3, 1), "input": MXInt(4)},
    {"weight": MXInt(4)},
    {"weight": LearnedInteger(5), "input": LearnedInteger(5)},
    None,
]


NAMES = ("first", "second", "head")


@cache
def all_costs(unit: str) -> dict[tuple[LayerFormats, ...], float]:
    """Of every choice for the layers of the convolutional network."""
    model, _ = conv_net()
    return {
        drawn: cost(model, Quantize(dict(zip(NAMES, drawn, strict=True))), unit)
        for drawn in product(map(layer_formats, FOUR), repeat=3)
    }


@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
    unit=st.sampled_from(["bits_per_weight", "size_mb"]),
    together=st.sampled_from([(), ("first", "head"), ("first", "second")]),
    keep=st.sampled_from([(), ("second",)]),
)
def test_no_plan_within_the_budget_is_better(
    seed: int, share: float, unit: str, together: tuple[str, ...], keep: tuple[str, ...]
) -> None:
    model, _ = conv_net()
    scores = scored(model, FOUR, seed)
    everything = {}
    for drawn, spent in all_costs(unit).items():
        given = dict(zip(NAMES, drawn, strict=True))
        shared = len({given[name] for name in together if name not in keep}) <= 1
        if shared and all(given[name] == LayerFormats() for name in keep):
            everything[drawn] = spent, sum(scores.of(name, c) for name, c in given.items())
    low, high = (f(spent for spent, _ in everything.values()) for f in (min, max))
    budget: dict[str, Any] = {unit: min(low + share * (high - low), high)}
    found = plan(model, scores, FOUR, groups=[together] if together else [], keep=keep, **budget)
    best = min(score for spent, score in everything.values() if spent <= budget[unit])
    assert found.predicted == pytest.approx(best, abs=1e-12)
    chosen = everything[tuple(layer_formats(found.recipe.layers[name]) for name in NAMES)]
    assert found.cost == chosen[0] <= budget[unit]
    assert chosen[1] == pytest.approx(best, abs=1e-12)


def test_query_key_and_value_of_each_attention_share_a_format() -> None:
    model = bert(vocab_size=20, hidden_size=16, num_hidden_layers=2, intermediate_size=32)
    formats = [MXInt(width) for width in range(2, 9)]
    patterns = ["*.query", "*.key", "*.value"]
    found = plan(model, scored(model, formats), formats, bits_per_weight=5, groups=[patterns])
    assert sorted(map(len, found.groups)) == [1] * 8 + [3] * 2
    for layer in (0, 1):
        prefix = f"bert.encoder.layer.{layer}.attention.self"
        assert tuple(f"{prefix}.{n}" for n in ("query", "key", "value")) in found.groups
        given = {found.recipe.layers[f"{prefix}.{n}"] for n in ("query", "key", "value")}
        assert len(given) == 1
    names = list(layers_of(model))
    (one,) = plan(model, scored(model, formats), formats, bits_per_weight=5, groups=[names]).groups
    assert list(one) == names


def test_layers_that_share_a_weight_share_their_formats_and_its_bits() -> None:
    model = Zoo()
    formats = [MXInt(2), MXInt(4)]
    found = plan(model, scored(model, formats), formats, size_mb=1, kinds=ALL_KINDS)
    assert ("words", "decoder", "again") in found.groups
    with pytest.raises(ValueError, match="one of several layers that share a weight"):
        plan(model, scored(model, formats), formats, size_mb=1, kinds=ALL_KINDS, keep=["words"])


@pytest.mark.parametrize("unit", ["bits_per_weight", "size_mb"])
def test_packed_layers_beside_those_that_are_planned_count_as_they_are(unit: str) -> None:
    model = nn.Sequential(nn.Conv1d(32, 8, 1), nn.Linear(64, 32), nn.Linear(32, 2))
    Pack()(model)
    fmt = [MXInt(4)]
    budget: dict[str, Any] = {unit: 100}
    found = plan(model, scored(model, fmt), fmt, kinds=["Conv1d"], **budget)
    assert found.cost == pytest.approx(cost(model, found.recipe, unit), rel=1e-12)


def test_a_budget_that_is_just_enough_is_met_and_one_below_it_is_refused() -> None:
    model, _ = conv_net()
    formats = [MXInt(3), MXInt(5)]
    scores = scored(model, formats)
    least = cost(model, Quantize({"*": formats[0]}), "bits_per_weight")
    assert plan(model, scores, formats, bits_per_weight=least).cost == least
    with pytest.raises(ValueError, match=rf"bits_per_weight={least - 1e-9}.* is below {least:.6g}"):
        plan(model, scores, formats, bits_per_weight=least - 1e-9)


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    model, _ = conv_net()
    formats = ["MXInt(width=4)"]
    scores = scored(model, formats)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "give one budget, either bits_per_weight or size_mb"),
        ({"bits_per_weight": 4, "size_mb": 1}, "give one budget"),
        ({"bits_per_weight": float("nan")}, "bits_per_weight=nan is not a number above 0"),
        ({"size_mb": -1}, "size_mb=-1 is not a number above 0"),
        ({"bits_per_weight": 4, "groups": [["first", "third"]]}, "'third' of groups matches none"),
        ({"bits_per_weight": 4, "groups": ["first"]}, r"which is not a list; write \[\['first'"),
        ({"bits_per_weight": 4, "groups": [["first"], ["f*"]]}, "'first' is in two groups"),
        ({"bits_per_weight": 4, "keep": ["third"]}, "pattern 'third' matches none"),
        ({"bits_per_weight": 4, "keep": ["*"]}, "model has no layer to plan"),
        ({"bits_per_weight": 4, "formats": ["MXInt(width=2)"]}, "no score of the input of 'first'"),
        ({"bits_per_weight": 4, "formats": ["MXInt(width=4)"]}, "is below 4.4"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            plan(model, scores, **{"formats": formats, **arguments})


def test_a_plan_leaves_the_model_as_it_was_and_is_the_same_again() -> None:
    model, batch = conv_net()
    formats = [MXInt(width) for width in range(2, 9)]
    scores = sensitivity(model, [batch], formats, loss=cross_entropy)
    before = Trace(model)
    found = [plan(model, scores, formats, bits_per_weight=5) for _ in range(2)]
    before.check()
    assert found[0] == found[1]
    assert isinstance(found[0], Plan)
    assert str(found[0]).startswith("predicted loss ")


def test_more_bits_never_score_more() -> None:
    model, batch = conv_net()
    formats = [MXInt(width) for width in range(2, 9)]
    scores = sensitivity(model, [batch], formats, loss=cross_entropy)
    budgets = [3 + n / 4 for n in range(20)]
    predicted = [plan(model, scores, formats, bits_per_weight=b).predicted for b in budgets]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] > predicted[-1]


@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
    unit=st.sampled_from(["bits_per_weight", "size_mb"]),
    together=st.sampled_from([(), ("first", "head")]),
)
def test_tensors_that_choose_freely_have_the_plan_of_all_combinations(
    seed: int, share: float, unit: str, together: tuple[str, ...]
) -> None:
    model, _ = conv_net()
    inputs, weights = [MXInt(4), LearnedInteger(3), None], [MXInt(3), LearnedInteger(4)]
    free: list[FreeChoice] = [
        {"input": inputs, "weight": weights, "bias": [MXInt(8), None]},
        {"weight": [Integer(2, 1), "Integer(width=6, frac_width=3)"]},
    ]
    combined: list[FreeChoice] = [
        *(
            {"input": i, "weight": w, "bias": b}
            for i, w, b in product(inputs, weights, [MXInt(8), None])
        ),
        {"weight": Integer(2, 1)},
        {"weight": Integer(6, 3)},
    ]
    scores = scored(model, combined, seed)
    least, most = (cost(model, Quantize({"*": {"weight": w}}), unit) for w in (Integer(2, 1), None))
    budget: dict[str, Any] = {
        unit: least + share * (most - least),
        "groups": [together] if together else [],
    }
    cells = [set(cells_of(NAMES, read_candidates(each, "test"))) for each in (free, combined)]
    assert cells[0] == cells[1]
    found, expected = (plan(model, scores, each, **budget) for each in (free, combined))
    assert found.predicted == pytest.approx(expected.predicted, abs=1e-12)
    assert found.cost <= budget[unit]

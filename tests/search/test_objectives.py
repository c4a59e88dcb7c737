"""Searches of several objectives do all that searches of one do."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.samplers import (
    CmaEsSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from parallel import Digits, Weighed
from rich.console import Console
from studies import Recipes

from lightning_adls import search
from lightning_adls.engines import Engine, make_engine
from lightning_adls.labs.study_status import StudyStatus
from lightning_adls.search import Bars, GridSampler, Listener, Search, TensorBoardRuns
from lightning_adls.search.history import History
from lightning_adls.search.values import reports_of, value_of
from lightning_adls.transforms import Quantize

SAMPLERS = {
    "tpe": partial(TPESampler, n_startup_trials=3),
    "random": RandomSampler,
    "grid": GridSampler,
    "nsga2": partial(NSGAIISampler, population_size=3),
    "nsga3": partial(NSGAIIISampler, population_size=3),
}
PRUNERS: dict[str, BasePruner] = {
    "median": MedianPruner(n_startup_trials=2),
    "percentile": PercentilePruner(60.0, n_startup_trials=2),
    "halving": SuccessiveHalvingPruner(min_resource=50),
    "hyperband": HyperbandPruner(min_resource=25, max_resource=100),
    "threshold": ThresholdPruner(lower=2),
    "patient": PatientPruner(None, patience=1),
}


def study_of(
    where: Path | None, pruner: BasePruner | None = None, minimise: Any = ("size_mb",)
) -> optuna.Study:
    if where is None:
        memory = InMemoryStorage()
        return search.open_study(memory, "study", {}, pruner or NopPruner(), minimise=minimise)
    with search.open_storage(where) as storage:
        return search.open_study(storage, "study", {}, pruner or NopPruner(), minimise=minimise)


def run(
    study: optuna.Study,
    objective: Any,
    sampler: Any = RandomSampler,
    trials: int = 16,
    listeners: Any = (),
    **engine: Engine,
) -> list[tuple[dict[str, Any], Any, TrialState]]:
    Search(study, objective, sampler, trials, 0, listeners, **engine).run()
    return [(t.params, t.values, t.state) for t in search.counted_trials(study)]


class Stop(Listener):
    """Stops a search after some trials, with one that runs."""

    def __init__(self, after: int) -> None:
        self.after = after

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        if len(search.counted) == self.after:
            search.study.ask()
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_search_ends_as_if_it_had_not_been(tmp_path: Path, sampler: str) -> None:
    objective, pruner = Weighed(tmp_path, reports=True), PRUNERS["median"]
    whole = run(study_of(tmp_path / "whole", pruner), objective, SAMPLERS[sampler])
    assert {state for *_, state in whole} == {TrialState.COMPLETE, TrialState.PRUNED}
    with pytest.raises(KeyboardInterrupt):
        run(study_of(tmp_path / "s", pruner), objective, SAMPLERS[sampler], listeners=[Stop(7)])
    assert run(study_of(tmp_path / "s", pruner), objective, SAMPLERS[sampler]) == whole


class Reporting(Digits):
    """Reports what rises or falls with its digits."""

    def __call__(self, trial: Any) -> Any:
        first, second, third = self.space.suggest(trial)
        for step in range(10, 100, 10):
            trial.report(first + (second - third) * step / 100, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        value = float(first + second - third)
        return (value, float(third)) if self.minimise else value


class WeighedReporting(Reporting):
    """Minimises one of its digits, too."""

    minimise = ("size_mb",)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_the_pruner_stops_what_it_stops_where_the_metric_is_all(
    tmp_path: Path, pruner: str
) -> None:
    alone_study = study_of(None, PRUNERS[pruner], ())
    alone = run(alone_study, Reporting(tmp_path), trials=30)
    study = study_of(None, PRUNERS[pruner])
    both = run(study, WeighedReporting(tmp_path), trials=30)
    assert [(params, state) for params, _, state in both] == [
        (params, state) for params, _, state in alone
    ]
    assert any(state == TrialState.PRUNED for *_, state in both)
    trials = zip(search.counted_trials(study), search.counted_trials(alone_study), strict=True)
    for trial, other in trials:
        assert value_of(trial) == other.value == value_of(other)
        assert reports_of(trial) == other.intermediate_values == reports_of(other)


@pytest.fixture(scope="module")
def two() -> Iterator[Engine]:
    with make_engine("processes", 2) as engine:
        yield engine


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_workers_give_the_same_values(tmp_path: Path, two: Engine, sampler: str) -> None:
    study = study_of(tmp_path / "two", PRUNERS["median"])
    found = run(study, Weighed(tmp_path, reports=True), SAMPLERS[sampler], engine=two)
    assert len(found) == 16
    for params, values, state in found:
        a, b, c = params.values()
        if state == TrialState.COMPLETE:
            assert values == [a + b + c, a * b * c]


def test_a_choice_that_comes_up_again_takes_over_its_values(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study")
    found = run(study, Weighed(tmp_path, digits=1, base=3), trials=9)
    assert all(values == [*params.values()] * 2 for params, values, _ in found)
    assert sum("same_as" in trial.user_attrs for trial in study.trials) == len(found) - 3 > 0


values = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8)


@given(values)
def test_the_best_has_the_highest_metric_then_the_least_cost_then_the_first_place(
    values: list[tuple[int, int]],
) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for index, pair in enumerate(values):
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, values=pair, user_attrs={"index": index})
        )
    best = search.best_trial(study)
    assert (best is None) == (not values)
    if best is not None:
        metric = max(value for value, _ in values)
        cost = min(cost for value, cost in values if value == metric)
        assert best.user_attrs["index"] == values.index((metric, cost))
        in_history = History(study).best
        assert in_history is not None
        assert in_history.number == best.number


def test_what_shows_a_search_shows_one_of_two_objectives(tmp_path: Path) -> None:
    objective = Weighed(tmp_path / "folder", reports=True)
    objective.folder.mkdir()
    study, text = study_of(tmp_path / "study", PRUNERS["median"]), StringIO()
    with Bars(Console(file=text, width=80)) as bars:
        run(study, objective, listeners=[TensorBoardRuns("place", "size_mb"), bars])
    trials = search.counted_trials(study)
    best = search.best_trial(study)
    assert best is not None
    assert f"best {best.values[0]:.4f}" in text.getvalue()
    assert StudyStatus("study", 16, trials).best.startswith(f"{best.values[0]:.4f} trial ")
    rows = search.trial_rows({"study": study})
    assert [row["value"] for row in rows] == [value_of(trial) for trial in trials]
    assert rows[-1]["running_best"] == best.values[0] == search.summary(study)["best_value"]
    assert len(list((objective.folder / "hparams").iterdir())) == 16
    assert (objective.folder / "pareto").is_dir()


COSTS = ("parameters", "bits_per_weight", "size_mb", "bit_operations")


def counted(recipes: Recipes) -> Recipes:
    """An objective whose modules say what one sample is."""
    build, tokens = recipes.build, torch.ones(1, 24, dtype=torch.int64)

    def with_example(recipe: Quantize) -> Any:
        module = build(recipe)
        module.example_input_array = {"input_ids": tokens, "attention_mask": tokens}
        return module

    return replace(recipes, build=with_example, minimise=COSTS)


def test_every_cost_can_be_an_objective(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal", minimise=COSTS)
    objective = counted(quick)
    run(study, objective, TPESampler, trials=4)
    assert study.metric_names == ["val/accuracy", *COSTS]
    for trial in search.counted_trials(study):
        assert trial.values[1:] == pytest.approx([trial.user_attrs[c] for c in COSTS], abs=1e-4)
    best = search.best_trial(study)
    assert best is not None
    assert objective.checkpoint(best).is_file()


def test_a_module_that_is_minimised_alike_in_all_its_costs_is_trained_as_one_that_is_not(
    recipes: Recipes, tmp_path: Path
) -> None:
    alone = run(study_of(tmp_path / "one", minimise=()), recipes, trials=2)
    both = run(study_of(tmp_path / "all", minimise=COSTS), counted(recipes), trials=2)
    assert [(params, values[:1]) for params, values, _ in both] == [
        (params, values) for params, values, _ in alone
    ]


def test_arithmetic_cannot_be_counted_without_an_example(quick: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal", minimise=["bit_operations"])
    with pytest.raises(ValueError, match=r"TextClassifier\.example_input_array is not set"):
        run(study, replace(quick, minimise=["bit_operations"]))


@pytest.mark.parametrize("minimise", [["accuracy"], ["size_mb", "size_mb"]])
def test_costs_that_are_none_or_twice_are_refused(quick: Recipes, minimise: list[str]) -> None:
    with pytest.raises(ValueError, match=r"Objective: minimise=.* is no list of different costs"):
        replace(quick, minimise=minimise)


def test_objectives_that_a_study_has_not_are_refused(tmp_path: Path) -> None:
    study, one, two = study_of(tmp_path / "study"), Digits(tmp_path), Weighed(tmp_path)
    other = r"minimise=\[\] makes 1 objectives, and the study 'study' has 2"
    with pytest.raises(ValueError, match=other):
        study_of(tmp_path / "study", minimise=())
    with pytest.raises(ValueError, match=other):
        run(study, one)
    with pytest.raises(ValueError, match="CmaEsSampler takes one objective, and there are 2"):
        run(study, two, CmaEsSampler)

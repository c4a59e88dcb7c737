"""What trials are compared by, and on which rows they are reported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from lightning_adls import search
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import classified
from lightning_adls.labs.classified import Classified
from lightning_adls.labs.halves import Halves
from lightning_adls.labs.judging import compared, reported, reported_flips
from lightning_adls.labs.monitoring import MODES, Monitor, Monitoring
from lightning_adls.search import Budget, Objective
from lightning_adls.transforms import Quantize

Recipes = Objective[Quantize]
Build = Callable[[list[Any]], TextClassifier]


def searched(objective: Recipes, monitoring: Monitoring, folder: Path) -> search.Search[Any]:
    """All points of a search that looks at what it is told."""
    judging = replace(objective, folder=folder, **monitoring.for_objective)
    with search.open_storage(folder / "search.journal") as storage:
        pruner = optuna.pruners.NopPruner()
        study = search.open_study(storage, "study", {}, pruner, **monitoring.for_study)
        found = search.Search(study, judging, search.GridSampler, 4)
        found.run()
    return found


@pytest.mark.parametrize("monitor", MODES)
def test_the_best_is_that_of_the_highest_accuracy_or_of_the_lowest_loss(
    quick: Recipes, build: Build, texts: TextData, tmp_path: Path, monitor: Monitor
) -> None:
    monitoring = Monitoring.of(texts, monitor, "all", 0)
    monitoring.refer_to(build([]), texts, Budget(accelerator="cpu"))
    found = searched(quick, monitoring, tmp_path)
    values: list[Any] = [trial.value for trial in found.counted]
    assert all(
        trial.user_attrs["metrics"][monitor] == pytest.approx(trial.value, abs=1e-6)
        for trial in found.counted
    )
    best = {"max": max, "min": min}[MODES[monitor]](values)
    assert found.best is not None
    assert found.best.value == best
    assert found.best.number == values.index(best)
    assert [value for _, value in found.curve][-1] == best
    assert isinstance(found.objective, Objective)
    assert found.objective.checkpoint(found.best).is_file()
    # What is reported is an accuracy, whatever trials are compared by.
    assert monitoring.accuracy(found.best) == pytest.approx(
        found.best.user_attrs["metrics"]["val/accuracy"], abs=1e-6
    )


def test_trials_are_compared_on_one_half_and_reported_on_the_other(
    recipes: Recipes, texts: TextData, tmp_path: Path
) -> None:
    monitoring = Monitoring.of(texts, "val/accuracy", "half", 3)
    assert (monitoring.choosing_rows, monitoring.reporting_rows) == (32, 32)
    ranges = {"width": [3, 8], "frac_width": [2]}
    space = search.FormatSpace.from_templates(["*"], {"Integer": {"weight": "Integer"}}, ranges)
    found = searched(replace(recipes, space=space), monitoring, tmp_path)
    for trial in found.counted:
        metrics = trial.user_attrs["metrics"]
        assert trial.value == pytest.approx(metrics["choosing/accuracy"], abs=1e-6)
        assert monitoring.accuracy(trial) == metrics["reporting/accuracy"]
        together = (metrics["choosing/accuracy"] + metrics["reporting/accuracy"]) / 2
        assert together == pytest.approx(metrics["val/accuracy"], abs=1e-5)
        # The pruner was asked by the half to choose by, too.
        assert trial.intermediate_values[100] == trial.value


def test_the_rows_that_are_reported_on_are_those_that_the_seed_leaves(texts: TextData) -> None:
    monitoring = Monitoring.of(texts, "val/accuracy", "half", 3)
    halves = Halves.of(texts, 3)
    assert monitoring.reporting == set(texts.rows("val").index[~halves.choosing].tolist())
    assert Monitoring(64).reporting is None


def test_looking_at_all_rows_by_accuracy_costs_nothing() -> None:
    monitoring = Monitoring(64)
    assert monitoring.for_objective == {"monitor": "val/accuracy", "mode": "max", "metrics": []}
    # Studies of earlier versions noted no metrics.
    attributes = {"before_compression": 0.75}
    trial = create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=attributes)
    assert (monitoring.accuracy(trial), monitoring.accuracy_before(trial)) == (0.5, 0.75)
    assert monitoring.against_reference(trial) == {"val_divergence": None, "flips": None}


def test_an_accuracy_before_compression_is_reported_on_the_same_rows(
    quick: Recipes, texts: TextData, tmp_path: Path
) -> None:
    monitoring = Monitoring.of(texts, "val/accuracy", "half", 0)
    compressing = replace(quick, compress=lambda module: None)
    found = searched(compressing, monitoring, tmp_path)
    for trial in found.counted:
        before = trial.user_attrs["metrics_before_compression"]
        assert monitoring.accuracy_before(trial) == before["reporting/accuracy"]
        assert before == trial.user_attrs["metrics"], "nothing was compressed"


def test_flips_are_rows_and_the_divergence_is_there_with_them() -> None:
    metrics = {"val/accuracy": 0.75, "val/flips": 0.25, "val/divergence": 0.125}
    trial = create_trial(value=0.125, user_attrs={"metrics": metrics})
    monitoring = Monitoring(64, "val/divergence")
    assert monitoring.against_reference(trial) == {"val_divergence": 0.125, "flips": 16}
    assert monitoring.accuracy(trial) == 0.75


def test_an_accuracy_of_a_step_is_divided_between_the_halves(
    texts: TextData, tmp_path: Path
) -> None:
    halves = Halves.of(texts, 0)
    monitoring = Monitoring(len(halves.index), halves=halves)
    rows = halves.index.tolist()
    right = {row: number % 3 != 0 for number, row in enumerate(rows)}
    path = tmp_path / "start.csv"
    classified.write(path, {row: Classified(1, int(right[row])) for row in rows})
    steps: Any = SimpleNamespace(answers=lambda split, step: path)
    on_all = sum(right.values()) / len(rows)
    told = reported(steps, "start", on_all, monitoring)["val_accuracy"]
    value = compared(steps, "start", on_all, monitoring)["value"]
    assert told == pytest.approx(sum(right[row] for row in halves.reporting) / 32, abs=1e-6)
    assert value == pytest.approx(sum(right[row] for row in halves.comparing) / 32, abs=1e-6)
    assert (told + value) / 2 == pytest.approx(on_all, abs=1e-6)
    everything = Monitoring(len(rows))
    assert compared(steps, "start", on_all, everything)["value"] == round(on_all, 6)


def test_flips_are_counted_on_the_rows_that_are_reported_on(
    texts: TextData, tmp_path: Path
) -> None:
    halves = Halves.of(texts, 0)
    for step, guess in (("before", 0), ("after", 1)):
        answers = {row: Classified(1, guess) for row in halves.index.tolist()}
        classified.write(tmp_path / step, answers)
    steps: Any = SimpleNamespace(answers=lambda split, step: tmp_path / step)
    for half, count in ((halves, 32), (None, 64)):
        found = reported_flips(steps, "before", "after", Monitoring(64, halves=half))
        assert found == {"flips": count, "right_to_wrong": 0, "wrong_to_right": count}
    assert reported_flips(steps, "before", "none", Monitoring(64))["flips"] is None

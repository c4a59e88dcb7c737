"""Which errors fail a trial, and which stop the search and leave the trial to be repeated."""

import errno
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from studies import Plain, Recipes, run, study_of

from lightning_adls import search
from lightning_adls.errors import InputValueError
from lightning_adls.search import SearchFailed
from lightning_adls.search.failures import TrialFailed, trial_failing
from lightning_adls.transforms import Quantize

OF_TRIALS = [
    FloatingPointError("val/loss is NaN after 3 steps"),
    MemoryError("no more"),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    torch.AcceleratorError("an illegal memory access was encountered"),
]
OF_OTHERS = [
    OSError(errno.ENOSPC, "No space left on device"),
    TypeError("build() takes 0 positional arguments"),
    KeyError("hidden"),
    ValueError("Prune: nothing matches"),
    InputValueError("Quantize: layers match nothing"),
    AttributeError("no attribute"),
    IndexError("index out of range in self"),
    ImportError("no module"),
    AssertionError(),
    NotImplementedError("no such kernel"),
    RecursionError("too deep"),
    UpdateFinishedTrialError("told already"),
]


def failing(recipes: Recipes, errors: Mapping[int, Exception], where: str = "build") -> Recipes:
    """The objective, whose models cannot be built or compressed in some trials, from 0."""
    calls = iter(range(100))

    def fail_in_turn() -> None:
        if error := errors.get(next(calls)):
            raise error

    def build(recipe: Quantize) -> L.LightningModule:
        fail_in_turn()
        return recipes.build(recipe)

    if where == "build":
        return replace(recipes, build=build)
    return replace(recipes, compress=lambda module: fail_in_turn())


@pytest.mark.parametrize("error", OF_TRIALS, ids=repr)
def test_an_error_of_a_model_is_its_trials_own(error: Exception) -> None:
    with pytest.raises(TrialFailed) as caught, trial_failing():
        raise error
    assert str(caught.value) == f"{type(error).__name__}: {error}"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", OF_OTHERS, ids=repr)
def test_another_error_is_left_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, trial_failing():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("where", ["build", "compress"])
def test_a_failed_trial_counts_and_the_search_goes_on(
    quick: Recipes, tmp_path: Path, where: str
) -> None:
    study = study_of(tmp_path / "journal")
    run(study, failing(quick, {1: RuntimeError("no kernel")}, where), 3, "grid")
    trials = search.counted_trials(study)
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert trials[1].user_attrs["error"] == "RuntimeError: no kernel"
    assert search.summary(study)["failed"] == 1


@pytest.mark.parametrize("where", ["build", "compress"])
def test_another_error_stops_the_search_and_its_trial_is_repeated(
    quick: Recipes, tmp_path: Path, where: str
) -> None:
    whole = run(study_of(tmp_path / "whole"), failing(quick, {}, where), 3, "grid")
    study, error = study_of(tmp_path / "journal"), KeyError("hidden")
    with pytest.raises(KeyError) as caught:
        run(study, failing(quick, {1: error}, where), 3, "grid")
    assert caught.value is error
    assert [t.state for t in search.counted_trials(study)] == [TrialState.COMPLETE]
    again = failing(quick, {}, where)
    assert run(study_of(tmp_path / "journal"), again, 3, "grid") == whole


def test_a_nan_fails_the_trial_and_not_the_study(recipes: Recipes, tmp_path: Path) -> None:
    def build(recipe: Quantize) -> L.LightningModule:
        module = recipes.build(recipe)
        with torch.no_grad():
            next(module.parameters()).fill_(torch.nan)
        return module

    study = study_of(tmp_path / "journal")
    run(study, replace(recipes, build=build), 1)
    (trial,) = search.counted_trials(study)
    assert trial.state == TrialState.FAIL
    assert "is NaN" in trial.user_attrs["error"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_stops_the_search_and_it_is_completed_when_there_is_space(
    recipes: Recipes, tmp_path: Path
) -> None:
    whole = run(study_of(tmp_path / "whole"), replace(recipes, folder=tmp_path / "w"), 3, "random")
    full = recipes.folder / "trial-001.ckpt.part"

    def build(recipe: Quantize) -> L.LightningModule:
        recipes.folder.mkdir(exist_ok=True)
        full.symlink_to("/dev/full")
        return recipes.build(recipe)

    study = study_of(tmp_path / "journal")
    with pytest.raises(OSError, match="No space left"):
        run(study, replace(recipes, build=build), 3, "random")
    assert search.counted_trials(study) == []
    full.unlink()
    assert run(study_of(tmp_path / "journal"), recipes, 3, "random") == whole


def test_three_failures_in_a_row_stop_the_search_with_their_reasons(
    quick: Recipes, recipes: Recipes, tmp_path: Path
) -> None:
    objective = replace(quick, space=recipes.space)
    errors: dict[int, Exception] = {n: RuntimeError("no kernel") for n in (0, 1, 3, 4)}
    errors[5] = FloatingPointError("NaN")
    study = study_of(tmp_path / "journal")
    reasons = r"three failed trials in a row \(RuntimeError: no kernel; FloatingPointError: NaN\)"
    with pytest.raises(SearchFailed, match=reasons.replace("three", "3")):
        run(study, failing(objective, errors), 16, "grid")
    states = [trial.state.name for trial in search.counted_trials(study)]
    assert states == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    # What failed is not tried again: the next call goes on behind it, with three tries of its own.
    run(study_of(tmp_path / "journal"), failing(objective, {0: RuntimeError("a")}), 9, "grid")
    assert len(search.counted_trials(study)) == 9


def test_a_trial_whose_process_died_after_its_error_counts(tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    trial = study.ask()
    trial.suggest_categorical("number", tuple(range(10)))
    trial.set_user_attr("index", 0)
    trial.set_user_attr("error", "RuntimeError: no kernel")
    objective: Any = Plain(tmp_path)
    run(study, objective, 2)
    assert [t.state.name for t in search.counted_trials(study)] == ["FAIL", "COMPLETE"]

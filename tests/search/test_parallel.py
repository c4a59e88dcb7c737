"""A search on several workers: the trials of a serial one, whoever judges them, in any order."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import parallel
import pytest
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.trial import TrialState
from parallel import Digits
from studies import Recipes, study_of

from lightning_adls import search
from lightning_adls.engines import Engine, make_engine
from lightning_adls.search import Listener, Search
from lightning_adls.search.samplers import SAMPLERS

Trials = list[tuple[int, dict[str, Any], float | None, str]]


@pytest.fixture(scope="module")
def three() -> Iterator[Engine]:
    with make_engine("processes", 3) as engine:
        yield engine


def trials_of(study: optuna.Study) -> Trials:
    return [
        (t.user_attrs["index"], t.params, t.value, t.state.name)
        for t in search.counted_trials(study)
    ]


def searched(
    path: Path,
    objective: Any,
    sampler: Any,
    engine: Engine | None = None,
    trials: int = 20,
    listeners: Any = (),
    pruner: optuna.pruners.BasePruner | None = None,
) -> Trials:
    study = study_of(path, pruner=pruner)
    given = {} if engine is None else {"engine": engine}
    Search(study, objective, SAMPLERS.get(sampler, sampler), trials, 0, listeners, **given).run()
    return trials_of(study)


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_samplers_that_do_not_look_back_give_the_trials_of_a_serial_search(
    tmp_path: Path, three: Engine, sampler: str
) -> None:
    objective = Digits(tmp_path)
    serial = searched(tmp_path / "one", objective, sampler)
    assert searched(tmp_path / "three", objective, sampler, three) == serial


@pytest.mark.parametrize("sampler", [TPESampler, NSGAIISampler])
def test_samplers_that_look_back_give_other_choices_of_the_same_values(
    tmp_path: Path, three: Engine, sampler: Any
) -> None:
    found = searched(tmp_path / "three", Digits(tmp_path), sampler, three)
    assert [index for index, *_ in found] == list(range(20))
    assert all(value == sum(params.values()) for _, params, value, _ in found)


def test_a_grid_is_tried_whole_and_no_point_twice(tmp_path: Path, three: Engine) -> None:
    found = searched(tmp_path / "three", Digits(tmp_path, digits=2, base=4), "grid", three, 99)
    assert len({tuple(params.values()) for _, params, *_ in found}) == len(found) == 16


def test_a_choice_that_is_being_judged_is_waited_for(tmp_path: Path, three: Engine) -> None:
    objective = Digits(tmp_path, digits=1, base=2, seconds=0.3)
    found = searched(tmp_path / "three", objective, "random", three, 8)
    assert len({value for _, _, value, _ in found}) == 2
    assert len(list(tmp_path.glob("judged-*"))) == 2, "each choice is judged once"


def test_reports_are_stored_and_the_pruner_is_asked(tmp_path: Path, three: Engine) -> None:
    objective = Digits(tmp_path, reports=True)
    pruner = optuna.pruners.ThresholdPruner(lower=13.5)
    serial = searched(tmp_path / "one", objective, "random", pruner=pruner)
    assert {state for *_, state in serial} == {"PRUNED", "COMPLETE"}
    assert searched(tmp_path / "three", objective, "random", three, pruner=pruner) == serial
    for trial in study_of(tmp_path / "three").trials:
        value = sum(trial.params.values())
        assert trial.intermediate_values == (
            {50: value} if value < 13.5 else {50: value, 100: value}
        )


class Stopping(Listener):
    """Stops a search as a killed process leaves it: with trials that run."""

    def trial_ended(self, search: Search[Any], trial: Any) -> None:
        if len(search.counted) == 5:
            os._exit(9)


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_what_a_killed_driver_left_is_run_again_in_its_place(
    tmp_path: Path, three: Engine, sampler: str
) -> None:
    objective = Digits(tmp_path)
    whole = searched(tmp_path / "whole", objective, sampler)
    if (pid := os.fork()) == 0:
        with make_engine("processes", 3) as engine:
            searched(tmp_path / "journal", objective, sampler, engine, listeners=[Stopping()])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert searched(tmp_path / "journal", objective, sampler, three) == whole
    states = {trial.state for trial in study_of(tmp_path / "journal").trials}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}, "nothing runs"


def test_workers_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    objective = Digits(tmp_path, seconds=0.2)
    serial = searched(tmp_path / "one", Digits(tmp_path), "random", trials=12)
    killed: list[int] = []

    class Killing(Listener):
        def trial_ended(self, search: Search[Any], trial: Any) -> None:
            if len(search.counted) in (3, 6):
                pid = trial.user_attrs["pid"]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with make_engine("processes", 2) as engine:
        found = searched(tmp_path / "two", objective, "random", engine, 12, [Killing()])
    assert found == serial
    assert len(killed) == 2
    assert len(study_of(tmp_path / "two").trials) == 12, "each was asked for once"


def test_a_choice_that_kills_its_process_fails_with_the_reason(tmp_path: Path) -> None:
    objective = Digits(tmp_path, digits=1, base=3, deadly=1)
    with make_engine("processes", 2) as engine:
        found = searched(tmp_path / "two", objective, "grid", engine, 3)
    assert sorted((state, value) for _, _, value, state in found if value is not None) == [
        ("COMPLETE", 0.0),
        ("COMPLETE", 2.0),
    ]
    (failed,) = study_of(tmp_path / "two").get_trials(states=(TrialState.FAIL,))
    assert "died each time that it was tried" in failed.user_attrs["error"]


def test_a_fault_stops_the_search_and_closes_what_runs(tmp_path: Path, three: Engine) -> None:
    objective = Digits(tmp_path, faulty=True)
    with pytest.raises(AttributeError, match="planted"):
        searched(tmp_path / "three", objective, "random", three)
    study = study_of(tmp_path / "three")
    assert not study.get_trials(states=(TrialState.RUNNING,))
    assert search.counted_trials(study) == []


@pytest.mark.long
def test_trained_trials_and_weights_are_those_of_a_serial_search(
    recipes: Recipes, tmp_path: Path
) -> None:
    alone = replace(recipes, folder=tmp_path / "one")
    serial = searched(tmp_path / "one.journal", alone, "random", trials=3)
    with make_engine("processes", 2, use_gpus=False) as engine:
        found = searched(tmp_path / "two.journal", recipes, "random", engine, 3)
    assert found == serial
    one, two = alone.folder, recipes.folder
    assert parallel.weights(one) == parallel.weights(two)
    assert {path.name for path in one.glob("trial-*")} == {
        path.name for path in two.glob("trial-*")
    }
    assert {path.name for path in (two / "trials").iterdir()} == {"001", "002", "003"}

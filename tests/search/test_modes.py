"""Searches for the lowest value."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from studies import Plain

from lightning_adls import search
from lightning_adls.errors import InputValueError
from lightning_adls.search import Search
from lightning_adls.search.front import pareto
from lightning_adls.search.history import History
from lightning_adls.search.results import summary, trial_rows
from lightning_adls.search.samplers import SAMPLERS
from lightning_adls.search.study import best_trial


class Low(Plain):
    mode = "min"


def studied(folder: Path, mode: Any) -> optuna.Study:
    with search.open_storage(folder / "search.journal") as storage:
        pruner = optuna.pruners.NopPruner()
        return search.open_study(storage, "study", {}, pruner, "loss", mode=mode)


def test_a_search_for_the_lowest_finds_it(tmp_path: Path) -> None:
    objective: Any = Low(tmp_path, lambda number: (number - 4) ** 2)
    found = Search(studied(tmp_path, "min"), objective, SAMPLERS["grid"], 10)
    found.run()
    assert found.best is not None
    assert (found.best.value, found.best.params) == (0.0, {"number": 4})
    assert found.curve[-1][1] == 0.0
    bests = [row["running_best"] for row in trial_rows({"study": found.study})]
    values: list[Any] = [trial.value for trial in found.counted]
    assert bests == [min(values[: n + 1]) for n in range(10)]
    assert summary(found.study)["best_value"] == 0.0


def test_of_equally_low_trials_the_first_is_the_best_in_the_history_too() -> None:
    study = optuna.create_study(direction="minimize")
    for index, value in enumerate((0.5, 0.2, 0.2, 0.9)):
        study.add_trial(create_trial(value=value, user_attrs={"index": index}))
    study.add_trial(create_trial(state=TrialState.PRUNED, value=0.1, user_attrs={"index": 4}))
    for best in (best_trial(study), History(study).best):
        assert best is not None
        assert best.user_attrs["index"] == 1


@pytest.mark.parametrize(("first", "then"), [("max", "min"), ("min", "max")])
def test_a_study_goes_on_in_its_own_mode_alone(tmp_path: Path, first: str, then: str) -> None:
    studied(tmp_path, first)
    with pytest.raises(InputValueError, match=f'mode: "{first}" → "{then}"'):
        studied(tmp_path, then)
    assert studied(tmp_path, first).directions


def test_an_objective_of_another_mode_than_its_study_is_refused(tmp_path: Path) -> None:
    objective: Any = Low(tmp_path)
    with pytest.raises(InputValueError, match="mode='min' of the objective is not that of"):
        Search(studied(tmp_path, "max"), objective, SAMPLERS["grid"], 3)


def test_a_mode_that_there_is_not_is_refused(quick: Any) -> None:
    from dataclasses import replace

    with pytest.raises(InputValueError, match="mode='low' is neither 'max' nor 'min'"):
        replace(quick, mode="low")


def test_the_front_of_low_values_is_what_nothing_cheaper_undercuts() -> None:
    points = [(8.0, 0.1), (4.0, 0.3), (6.0, 0.3), (16.0, 0.1), (4.0, 0.4)]
    assert pareto(points, "min") == [(4.0, 0.3), (8.0, 0.1)]

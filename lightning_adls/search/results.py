"""What a search found, as rows and as a summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.report import running_best
from lightning_adls.search.modes import Mode, mode_of
from lightning_adls.search.study import best_trial, counted_trials
from lightning_adls.search.values import value_of
from lightning_adls.transforms.cost import COSTS


def trial_rows(studies: Mapping[str, optuna.Study]) -> list[dict[str, Any]]:
    """One row per trial, study by study; trials count from 1.

    The value of a pruned trial is the last that it reported; it does not enter the running best.
    Costs are those after compression, where there was one; bit operations are there where the
    search limits or minimises them.
    """
    return [
        row
        for name, study in studies.items()
        for row in rows_of(name, counted_trials(study), mode_of(study))
    ]


def rows_of(name: str, trials: Sequence[FrozenTrial], mode: Mode) -> list[dict[str, Any]]:
    """The rows of one study, from its trials that count."""
    return [
        {
            "study": name,
            "trial": trial.user_attrs["index"] + 1,
            "state": trial.state.name.lower(),
            "value": _rounded(value_of(trial)),
            "running_best": _rounded(best),
            "before_compression": _rounded(trial.user_attrs.get("before_compression")),
            **{name: trial.user_attrs.get(name) for name in (*COSTS, "bit_operations")},
            "seconds": trial.user_attrs.get("seconds"),
            "choice": trial.user_attrs.get("choice"),
        }
        for trial, best in zip(trials, _best_so_far(trials, mode), strict=True)
    ]


def _best_so_far(trials: Sequence[FrozenTrial], mode: Mode) -> list[float | None]:
    complete = [value_of(t) if t.state == TrialState.COMPLETE else None for t in trials]
    return running_best(complete, mode)


def best_curve(study: optuna.Study) -> list[tuple[float, float]]:
    """The running best as points: number of trials, best value so far."""
    return curve_of(counted_trials(study), mode_of(study))


def curve_of(trials: Sequence[FrozenTrial], mode: Mode) -> list[tuple[float, float]]:
    """The same from the trials that count."""
    return [(n, best) for n, best in enumerate(_best_so_far(trials, mode), 1) if best is not None]


def summary(study: optuna.Study) -> dict[str, Any]:
    """Value and costs of the best trial of a study, counts, seconds."""
    trials = counted_trials(study)
    states = [trial.state for trial in trials]
    best = best_trial(study)
    return {
        "best_value": None if best is None else _rounded(value_of(best)),
        "best_trial": None if best is None else best.user_attrs["index"] + 1,
        **{name: None if best is None else best.user_attrs.get(name) for name in COSTS},
        "trials": len(trials),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "seconds": round(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials), 1),
    }


def _rounded(value: float | None) -> float | None:
    # Metrics are float32, whose seventh digit is not sure.
    return None if value is None else float(f"{value:.6g}")

"""Studies that remember what their values mean, and the trials in them that count."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.errors import InputValueError
from lightning_adls.search.modes import Mode, mode_of
from lightning_adls.search.values import rank_of
from lightning_adls.settings import refuse_changes

# Up to version 0.1 it was "fingerprint", and a trial's choice was its "recipe".
_SETTINGS = "settings"
_POINTS = "points"
_PROPOSED = "proposed"
_MOST_POINTS = 1_000_000


def open_study(
    storage: BaseStorage,
    name: str,
    fingerprint: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner,
    metric: str = "val/accuracy",
    minimise: Sequence[str] = (),
    mode: Mode = "max",
) -> optuna.Study:
    """Create a study, or continue it if it is the same search.

    Args:
        storage: From :func:`open_storage`.
        name: Of the study within its storage.
        fingerprint: Everything that decides what a trial's value means: the space, the data, the
            budget, the seed. Values that JSON can hold.
        pruner: Decides which trials stop early.
        metric: What the values are, for a dashboard.
        minimise: Costs that are minimised beside it, as in :class:`Objective`: further objectives.
        mode: Whether the metric is to be high (``max``) or low (``min``), as :class:`Objective` has
            it.

    Raises:
        ValueError: If the study exists with another fingerprint, mode or other objectives (the
            message says what differs), or has trials and no fingerprint.
    """
    metric_direction = StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE
    directions = [metric_direction, *(StudyDirection.MINIMIZE for _ in minimise)]
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, pruner=pruner, load_if_exists=True
    )
    if len(study.directions) != len(directions):
        raise InputValueError(
            f"open_study: minimise={list(minimise)} makes {len(directions)} objectives, and the "
            f"study {name!r} has {len(study.directions)}; restore them, or give another name."
        )
    now = json.loads(json.dumps(fingerprint))
    begun = bool(study.get_trials(deepcopy=False))
    # Read after the trials: who begins a study writes this first.
    before = study.user_attrs.get(_SETTINGS)
    if before is not None:
        refuse_changes("open_study", f"the study {name!r}", before, now)
    elif begun:
        raise InputValueError(
            f"open_study: the study {name!r} has trials of which nobody knows the settings: an "
            "earlier version or another program made it; give another name, or another --run."
        )
    else:
        study.set_user_attr(_SETTINGS, now)
    refuse_changes("open_study", f"the study {name!r}", {"mode": mode_of(study)}, {"mode": mode})
    if study.metric_names != [metric, *minimise]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([metric, *minimise])
    return study


def settings_of(study: optuna.Study) -> dict[str, Any]:
    """The fingerprint that a study was begun with."""
    found: dict[str, Any] = study.user_attrs[_SETTINGS]
    return found


def study_names(storage: BaseStorage) -> set[str]:
    """Names of the studies that were begun in a storage."""
    return set(optuna.get_all_study_names(storage))


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended by themselves, in order: those that were interrupted do not count."""
    return sorted(ended_trials(study), key=lambda trial: trial.user_attrs["index"])


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The same in the order in which they began, also in a study that no search has numbered."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return [t for t in trials if t.state != TrialState.FAIL or "error" in t.user_attrs]


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the best value; None if none completed.

    Of equals it is the cheapest, where costs are objectives, and then the earliest.
    """
    # By state: Optuna gives a pruned trial its last report as its value.
    complete = [t for t in counted_trials(study) if t.state == TrialState.COMPLETE]
    mode = mode_of(study)
    return max(complete, key=lambda trial: rank(trial, mode), default=None)


def rank(trial: FrozenTrial, mode: Mode) -> tuple[float, ...]:
    """What is highest for the best of complete trials that count."""
    return rank_of(trial.values, trial.user_attrs["index"], mode)


def note_points(study: optuna.Study, points: int) -> None:
    """Keep how many points the space has, for who reads the study without its space.

    Only a few are of interest: a study has no more trials than its space has points.
    """
    if points <= _MOST_POINTS and _POINTS not in study.user_attrs:
        study.set_user_attr(_POINTS, points)


def note_proposals(study: optuna.Study, proposals: int) -> None:
    """Keep how many points were chosen for a study beforehand: it has no more trials than these.

    A study that goes on may be given more of them.
    """
    if study.user_attrs.get(_PROPOSED) != proposals:
        study.set_user_attr(_PROPOSED, proposals)


def total_trials(study: optuna.Study, trials: int) -> int:
    """How many trials a study will have.

    Args:
        study: The study, which was run.
        trials: How many it shall have.
    """
    most = (study.user_attrs.get(key, trials) for key in (_POINTS, _PROPOSED))
    return min(trials, *map(int, most))


def close_interrupted(study: optuna.Study) -> None:
    """Close trials whose process is gone: they are run again.

    Only for who holds the study's lease: no other process has a trial that runs.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)

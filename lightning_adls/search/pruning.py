"""Reports and pruning, also of studies with several objectives: by the first of them."""

import copy
from collections.abc import Container, Sequence
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.search.values import REPORTED, reports_of, value_of


def report(trial: optuna.Trial, value: float, step: int) -> None:
    """Store the metric of a trial after ``step`` percent of its budget."""
    if len(trial.study.directions) == 1:
        trial.report(value, step)
        return
    # As intermediate values TPE would look for the one direction of the study, and raise.
    trial.set_user_attr(REPORTED, {**trial.user_attrs.get(REPORTED, {}), str(step): value})


def should_prune(trial: optuna.Trial) -> bool:
    """Ask the pruner of a trial's study, by the metric alone."""
    study = trial.study
    if len(study.directions) == 1:
        return trial.should_prune()
    seen = cast(BaseStorage, _MetricAlone(study._storage))
    alone = optuna.Study(study.study_name, seen, study.sampler, study.pruner)
    return study.pruner.prune(alone, seen.get_trial(trial._trial_id))


class _MetricAlone:
    """A storage as pruners see it: its studies have the first of their objectives alone.

    Pruners read and write the storage itself, Hyperband makes studies of it: a study that only
    looks different would not be enough.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_directions(self, study_id: int) -> Sequence[StudyDirection]:
        return self._storage.get_study_directions(study_id)[:1]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _metric_alone(self._storage.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy, states)
        return [_metric_alone(trial) for trial in trials]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)


def _metric_alone(trial: FrozenTrial) -> FrozenTrial:
    alone, value = copy.copy(trial), value_of(trial)
    alone.values = None if value is None else [value]
    alone.intermediate_values = reports_of(trial)
    return alone

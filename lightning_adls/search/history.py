"""The trials that a study has, kept in order, so that no trial has to look at all others again."""

from bisect import insort
from collections.abc import Hashable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.search.modes import mode_of
from lightning_adls.search.study import counted_trials, rank

Point = Hashable


def point_of(params: Mapping[str, Any]) -> Point:
    """The parameters of a trial, to be found among others."""
    return tuple(sorted(params.items()))


class History:
    """The ended trials of a study that one process runs.

    Args:
        study: Read once; what ends afterwards is added.

    Attributes:
        trials: Those that count, by their place.
        best: The complete one of the best value; of equals the cheapest, and then the earliest.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.trials: list[FrozenTrial] = []
        self.best: FrozenTrial | None = None
        self._by_point: dict[Point, FrozenTrial] = {}
        self._places: set[int] = set()
        self._lowest = 0
        self._mode = mode_of(study)
        for trial in counted_trials(study):
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """One more that counts has ended."""
        insort(self.trials, trial, key=_place)
        self._places.add(_place(trial))
        # A failed one may succeed the next time.
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            twin = self._by_point.setdefault(point_of(trial.params), trial)
            if _place(trial) < _place(twin):
                self._by_point[point_of(trial.params)] = trial
        if trial.state == TrialState.COMPLETE and (
            self.best is None or rank(trial, self._mode) > rank(self.best, self._mode)
        ):
            self.best = trial

    def twin(self, point: Point) -> FrozenTrial | None:
        """A trial of the same choices, whose result another one would repeat bit for bit."""
        return self._by_point.get(point)

    def free_place(self, taken: set[int]) -> int:
        """The first place that no trial has, nor any of those that are taken."""
        while self._lowest in self._places:
            self._lowest += 1
        place = self._lowest
        while place in self._places or place in taken:
            place += 1
        return place


def _place(trial: FrozenTrial) -> int:
    place: int = trial.user_attrs["index"]
    return place

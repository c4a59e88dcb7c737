"""A search in TensorBoard while it runs: its curves, and each trial as a row of HPARAMS."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from lightning_adls.events import Session, write_run
from lightning_adls.report import Curve
from lightning_adls.search.columns import columns_of
from lightning_adls.search.front import Point, hypervolumes, pareto, reference_of
from lightning_adls.search.listeners import Listener
from lightning_adls.search.values import value_of

if TYPE_CHECKING:
    from lightning_adls.search.search import Search

RUNNING_BEST = "search/running_best"
VALUE = "search/value"
TRIALS_PER_HOUR = "search/trials_per_hour"
HYPERVOLUME = "search/hypervolume"
# TensorBoard counts in whole steps: costs are multiplied to have some digits.
_FRONTS = {
    "bits_per_weight": ("search/front_by_bits_x100", 100),
    "size_mb": ("search/front_by_kilobytes", 1000),
}
FRONTS = {cost: tag for cost, (tag, _) in _FRONTS.items()}


@dataclass(frozen=True)
class TensorBoardRuns(Listener):
    """Writes the TensorBoard runs of searches as soon as a trial has ended.

    In the folder of a search's objective, ``hparams/<trial>``: what the trial chose and how it
    ended as a row of HPARAMS, with its value, costs and seconds. There too, or in ``overview``:
    the value of each trial, the best so far and the trials per hour over the number of trials.
    Below that, ``pareto``: the best value over the cost, without those that another trial outdoes
    in both. Where costs are minimised beside a metric that is maximised: the area that the trials
    so far dominate, over the first of these costs (:func:`hypervolumes`), counted from the highest
    cost of all searches so far. All are made of the studies alone, so that a search which was
    interrupted shows the same as one which was not.

    Args:
        place: Added to the names of trials in HPARAMS, such as the run's; no two searches that are
            shown together may have the same names.
        cost: Of the front: ``bits_per_weight`` or ``size_mb``.
        overview: Folder of the curves of all searches, each under the name of its study; by
            default they lie in the folder of the search's objective.
        chance: The value of guessing, from which hypervolumes count.
    """

    place: str
    cost: str = "bits_per_weight"
    overview: Path | None = None
    chance: float = 0.0
    _searches: dict[str, "Search[Any]"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # By search, the reference of what was written last.
    _written: dict[str, Point] = field(default_factory=dict, init=False, repr=False, compare=False)

    def begun(self, search: "Search[Any]") -> None:
        """Write what is known already."""
        self._searches[search.name] = search
        trials = search.counted
        if trials:
            self._write_curves(search, trials)
            self._write_others(search)
        for trial in trials:
            self._write_session(search, trial)

    def trial_ended(self, search: "Search[Any]", trial: FrozenTrial) -> None:
        """Write the trial, and the curves anew."""
        self._searches[search.name] = search
        self._write_session(search, trial)
        self._write_curves(search, search.counted)
        self._write_others(search)

    def _write_others(self, search: "Search[Any]") -> None:
        """Write the curves of other searches whose hypervolumes now count from a higher cost."""
        for name, written in list(self._written.items()):
            other = self._searches[name]
            if other is not search and self._reference(other) != written:
                self._write_curves(other, other.counted)

    def _reference(self, search: "Search[Any]") -> Point:
        trials = [trial for each in self._searches.values() for trial in each.counted]
        return reference_of(trials, search.objective.minimise[0], self.chance)

    def _hypervolumes(self, search: "Search[Any]", trials: Sequence[FrozenTrial]) -> Curve:
        reference = self._written[search.name] = self._reference(search)
        found = hypervolumes(trials, search.objective.minimise[0], reference)
        return [(n, volume) for n, volume in enumerate(found, 1) if volume is not None]

    def _write_curves(self, search: "Search[Any]", trials: Sequence[FrozenTrial]) -> None:
        folder = search.objective.folder
        if self.overview is not None:
            folder = self.overview / self._name(search)
        seconds = accumulate(trial.user_attrs.get("seconds", 0.0) for trial in trials)
        rates = [(n, 3600 * n / spent) for n, spent in enumerate(seconds, 1) if spent]
        values = [(n, v) for n, t in enumerate(trials, 1) if (v := value_of(t)) is not None]
        curves: dict[str, Curve] = {
            VALUE: values,
            RUNNING_BEST: search.curve,
            TRIALS_PER_HOUR: rates,
        }
        if search.objective.minimise and search.objective.mode == "max":
            curves[HYPERVOLUME] = self._hypervolumes(search, trials)
        write_run(folder, curves=curves)
        tag, factor = _FRONTS[self.cost]
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        points = [(t.user_attrs[self.cost], t.values[0]) for t in complete]
        if points:
            front = [
                (factor * cost, value) for cost, value in pareto(points, search.objective.mode)
            ]
            write_run(folder / "pareto", curves={tag: front})

    def _write_session(self, search: "Search[Any]", trial: FrozenTrial) -> None:
        number = trial.user_attrs["index"] + 1
        metrics = {
            "value": value_of(trial),
            **{cost: trial.user_attrs.get(cost) for cost in (*_FRONTS, "bit_operations")},
            "seconds": trial.user_attrs.get("seconds"),
        }
        found: dict[str, Curve] = {
            f"trial/{name}": [(number, value)]
            for name, value in metrics.items()
            if value is not None
        }
        state = trial.state.name.lower()
        write_run(
            search.objective.folder / "hparams" / f"{number:03d}",
            curves=found,
            session=Session(
                f"{self._name(search)}/{number:03d} {self.place}",
                {**columns_of(search.objective.space, trial), "state": state},
                "failure" if trial.state == TrialState.FAIL else "success",
            ),
        )

    def _name(self, search: "Search[Any]") -> str:
        """Of the study, in a storage that runs share without the run before it."""
        return search.name.removeprefix(f"{self.place}/")

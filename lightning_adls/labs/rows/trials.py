"""Rows of searches: one for each trial."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.columns import COSTS, accuracy, accuracy_before, measured
from lightning_adls.report import Row
from lightning_adls.search import Search
from lightning_adls.search.front import front_of, hypervolumes, reference_of
from lightning_adls.search.listeners import RowsFile
from lightning_adls.search.results import rows_of


@dataclass(eq=False)
class TrialTable(RowsFile):
    """Keeps a CSV file with a row for each trial of all searches so far, by the name of its study.

    Args:
        monitoring: What trials are compared by, and reported on.
        choice: Name of the column of what a trial chose.
        about: What the columns after ``study`` say of it, by its name.
        front: A cost: two more columns say which trials are on the Pareto front of their study,
            and how much it dominates after each, as :func:`hypervolumes` counts it from
            :attr:`reference` on.
        chance: The accuracy of guessing, from which hypervolumes count.
    """

    monitoring: Monitoring
    choice: str
    about: Callable[[str], Row] = lambda study: {}
    front: str | None = None
    chance: float = 0.0

    def rows(self) -> list[Row]:
        """The rows of all searches."""
        trials = [trial for search in self.searches.values() for trial in search.counted]
        counted = any("bit_operations" in trial.user_attrs for trial in trials)
        costs = (*COSTS, "bit_operations") if counted else COSTS
        return [row for study in self.searches for row in self._rows(study, costs)]

    def _rows(self, study: str, costs: Sequence[str]) -> list[Row]:
        search, monitoring = self.searches[study], self.monitoring
        choosing = monitoring.choosing_rows if monitoring.by_accuracy else None
        best = search.best
        test = search.study.user_attrs.get("test", {})
        rows = []
        trials = search.counted
        of_front = self._of_front(trials)
        rows_of_study = rows_of(study, trials, monitoring.mode)
        for row, trial, more in zip(rows_of_study, trials, of_front, strict=True):
            tested = test if test.get("trial") == trial.number else {}
            kept = best is not None and best.number == trial.number
            before = monitoring.accuracy_before(trial)
            rows.append(
                {
                    "study": study,
                    **self.about(study),
                    "trial": row["trial"],
                    "state": row["state"],
                    **accuracy_before(before, monitoring.reporting_rows),
                    **accuracy("val", monitoring.accuracy(trial), monitoring.reporting_rows),
                    "value": row["value"],
                    **measured("running_best", row["running_best"], choosing),
                    **monitoring.against_reference(trial),
                    **more,
                    **accuracy("test", tested.get("accuracy"), tested.get("rows")),
                    **{name: row[name] for name in costs},
                    "seconds": row["seconds"],
                    # Weights of outdone trials are removed.
                    "checkpoint": f"{study}/{trial.user_attrs['checkpoint']}" if kept else None,
                    self.choice: row["choice"],
                }
            )
        return rows

    @property
    def reference(self) -> tuple[float, float]:
        """The highest cost of all searches so far, and the accuracy of guessing."""
        assert self.front is not None
        trials = [trial for search in self.searches.values() for trial in search.counted]
        return reference_of(trials, self.front, self.chance)

    def _of_front(self, trials: Sequence[FrozenTrial]) -> list[Row]:
        """For each trial of a study, the columns about its front."""
        if self.front is None:
            return [{} for _ in trials]
        mode = self.monitoring.mode
        members = {trial.number for trial in front_of(trials, self.front, mode)}
        dominated: list[float | None] = [None for _ in trials]
        if mode == "max":  # the area is that of a high metric
            dominated = hypervolumes(trials, self.front, self.reference)
        return [
            {
                "on_front": int(trial.number in members),
                "hypervolume": None if volume is None else round(volume, 6),
            }
            for trial, volume in zip(trials, dominated, strict=True)
        ]


def total_seconds(searches: Mapping[str, Search[Any]]) -> float:
    """What all trials that count took together."""
    return float(
        sum(t.user_attrs.get("seconds", 0.0) for s in searches.values() for t in s.counted)
    )

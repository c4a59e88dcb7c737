"""Rows of searches: one for each trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_adls.labs.rows.columns import COSTS, accuracy
from lightning_adls.report import Row
from lightning_adls.search import Search
from lightning_adls.search.listeners import RowsFile
from lightning_adls.search.results import rows_of


@dataclass(eq=False)
class TrialTable(RowsFile):
    """Keeps a CSV file with a row for each trial of all searches so far, by the name of its study.

    Args:
        val_rows: Rows that a trial is validated on.
        choice: Name of the column of what a trial chose.
        about: What the columns after ``study`` say of it, by its name.
    """

    val_rows: int
    choice: str
    about: Callable[[str], Row] = lambda study: {}

    def rows(self) -> list[Row]:
        """The rows of all searches."""
        return [row for study in self.searches for row in self._rows(study)]

    def _rows(self, study: str) -> list[Row]:
        search = self.searches[study]
        best = search.best
        test = search.study.user_attrs.get("test", {})
        rows = []
        trials = search.counted
        for row, trial in zip(rows_of(study, trials), trials, strict=True):
            tested = test if test.get("trial") == trial.number else {}
            kept = best is not None and best.number == trial.number
            before = row["before_compression"]
            rows.append(
                {
                    "study": study,
                    **self.about(study),
                    "trial": row["trial"],
                    "state": row["state"],
                    "val_accuracy_before_compression": before,
                    **accuracy("val", row["value"], self.val_rows),
                    "running_best": row["running_best"],
                    **accuracy("test", tested.get("accuracy"), tested.get("rows")),
                    **{name: row[name] for name in COSTS},
                    "seconds": row["seconds"],
                    # Weights of outdone trials are removed.
                    "checkpoint": f"{study}/{trial.user_attrs['checkpoint']}" if kept else None,
                    self.choice: row["choice"],
                }
            )
        return rows


def total_seconds(searches: Mapping[str, Search[Any]]) -> float:
    """What all trials that count took together."""
    return float(
        sum(t.user_attrs.get("seconds", 0.0) for s in searches.values() for t in s.counted)
    )

"""What a report says of one run, before it is laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_adls.labs.best import in_a_line
from lightning_adls.labs.rows.columns import error_column
from lightning_adls.report import Row


@dataclass(frozen=True)
class ReportTable:
    """A table of a report.

    Args:
        title: Above it.
        columns: By key of the rows, in order: the header and the format specification.
        rows: What it shows; None or nothing becomes a dash.
    """

    title: str
    columns: Mapping[str, tuple[str, str]]
    rows: Sequence[Row]

    @property
    def cells(self) -> list[list[str]]:
        """The text of each cell, row by row."""
        return [
            [_text(row.get(key), spec) for key, (_, spec) in self.columns.items()]
            for row in self.rows
        ]


def _text(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)


@dataclass
class Content:
    """What the numbers of a run say.

    Attributes:
        tables: Of the lab sheet's tasks.
        observations: Statements that the numbers support, each with its test.
        conclusion: Those of them that decide what to conclude.
        takeaways: What to remember: the models that were chosen, and what they cost.
    """

    tables: list[ReportTable] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    conclusion: list[str] = field(default_factory=list)
    takeaways: list[str] = field(default_factory=list)

    def observe(self, *statements: str, main: bool = False) -> None:
        """Add observations; ``main`` ones stand in the conclusion, too."""
        self.observations += statements
        if main:
            self.conclusion += statements


ACCURACY_COLUMNS = {
    "val": ("val accuracy", ""),
    "test": ("test accuracy", ""),
}


def say_best(found: Content, best: Row, rows: Mapping[str, Row]) -> None:
    """Say which models are as good as the best one, and the cheapest of them.

    Args:
        found: Where to say it.
        best: What the summary has of it; empty where an earlier version wrote it.
        rows: Of those models, by the names that it has.
    """
    if best:
        found.observe(in_a_line(best, rows), main=True)


def with_errors(row: Row) -> Row:
    """A row whose ``val`` and ``test`` are the accuracies with their standard errors, in percent.

    Example:
        >>> with_errors({"val_accuracy": 0.863, "val_standard_error": 0.0077})["val"]
        '86.3 ± 0.8 %'
    """
    return {
        **row,
        "val": in_percent(row, "val_accuracy"),
        "test": in_percent(row, "test_accuracy"),
    }


def in_percent(row: Row, column: str) -> str | None:
    """The accuracy in a column of a row, with the standard error that the row has of it.

    Example:
        >>> in_percent({"mean_best": 0.5, "mean_best_standard_error": 0.05}, "mean_best")
        '50.0 ± 5.0 %'
        >>> in_percent({"mean_best": None}, "mean_best") is None
        True
    """
    accuracy, error = row.get(column), row.get(error_column(column))
    if accuracy is None:
        return None
    return (
        f"{100 * accuracy:.1f} %"
        if error is None
        else f"{100 * accuracy:.1f} ± {100 * error:.1f} %"
    )

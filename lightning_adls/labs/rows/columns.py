"""What columns of several labs hold."""

from collections.abc import Sequence
from typing import Any

from lightning_adls.report import Row
from lightning_adls.significance import standard_error

ACCURACIES = ("val_accuracy", "val_standard_error", "test_accuracy", "test_standard_error")
FLIPS = ("flips", "right_to_wrong", "wrong_to_right")
COSTS = ("parameters", "size_mb", "bits_per_weight", "sparsity")


def accuracy(split: str, value: float | None, rows: int | None) -> Row:
    """An accuracy and its binomial standard error, under the names of their columns.

    Args:
        split: ``val`` or ``test``.
        value: The accuracy, None before it is known.
        rows: Behind it, None where that is not known.
    """
    return measured(f"{split}_accuracy", None if value is None else round(value, 6), rows)


def accuracy_before(value: float | None, rows: int) -> Row:
    """The columns of an accuracy before compression; None where nothing was compressed."""
    rounded = None if value is None else round(value, 6)
    return measured("val_accuracy_before_compression", rounded, rows)


def measured(column: str, value: float | None, rows: int | None) -> Row:
    """An accuracy under the name of its column, and its binomial standard error.

    Args:
        column: Of the accuracy; that of the error is :func:`error_column`.
        value: The accuracy, None before it is known.
        rows: Behind it, None where that is not known.
    """
    error = None if value is None or rows is None else round(standard_error(value, rows), 6)
    return {column: value, error_column(column): error}


def error_column(column: str) -> str:
    """The column that has the standard error of an accuracy.

    Example:
        >>> error_column("val_accuracy_untrained"), error_column("running_best")
        ('val_standard_error_untrained', 'running_best_standard_error')
    """
    if "accuracy" in column:
        return column.replace("accuracy", "standard_error")
    return f"{column}_standard_error"


def chosen(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of a row, in their order; None where it has none."""
    return {column: row.get(column) for column in columns}

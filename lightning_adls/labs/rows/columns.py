"""What columns of several labs hold."""

from collections.abc import Sequence
from typing import Any

from lightning_adls.report import Row
from lightning_adls.significance import standard_error

ACCURACIES = ("val_accuracy", "val_standard_error", "test_accuracy", "test_standard_error")
COSTS = ("parameters", "size_mb", "bits_per_weight", "sparsity")


def accuracy(split: str, value: float | None, rows: int | None) -> Row:
    """An accuracy and its binomial standard error, under the names of their columns.

    Args:
        split: ``val`` or ``test``.
        value: The accuracy, None before it is known.
        rows: Behind it, None where that is not known.
    """
    error = None if value is None or rows is None else round(standard_error(value, rows), 6)
    return {
        f"{split}_accuracy": None if value is None else round(value, 6),
        f"{split}_standard_error": error,
    }


def chosen(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of a row, in their order; None where it has none."""
    return {column: row.get(column) for column in columns}

"""Results on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from lightning_adls.labs.rows.columns import error_column
from lightning_adls.significance import standard_error


def table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> Table:
    """A table for the screen, narrow enough for 80 columns.

    Args:
        title: Above the table.
        rows: What to show; a value that is None or missing becomes a dash. An accuracy whose
            standard error is in the row, in its :func:`error_column`, stands with it.
        columns: By key of the rows, in order: the header and the format specification, such as
            ``{"accuracy": ("val acc.", ".4f")}``. The first column is flush left.
    """
    made = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for place, (header, _) in enumerate(columns.values()):
        made.add_column(header, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(cell(row, key, spec) or "-" for key, (_, spec) in columns.items()))
    return made


def in_words(accuracy: float, rows: int) -> str:
    """An accuracy on so many rows, with its standard error.

    Example:
        >>> in_words(0.864, 2000)
        '0.8640 ± 0.0077'
    """
    return f"{accuracy:.4f} ± {standard_error(accuracy, rows):.4f}"


def cell(row: Mapping[str, Any], key: str, spec: str) -> str | None:
    """What a table has of a row, None for nothing.

    Example:
        >>> cell({"val_accuracy": 0.864, "val_standard_error": 0.0077}, "val_accuracy", ".4f")
        '0.8640 ± 0.0077'
    """
    if (value := row.get(key)) is None:
        return None
    error = row.get(error_column(key))
    return format(value, spec) + ("" if error is None else f" ± {format(error, spec)}")

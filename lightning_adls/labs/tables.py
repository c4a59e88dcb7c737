"""Results on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> Table:
    """A table for the screen, narrow enough for 80 columns.

    Args:
        title: Above the table.
        rows: What to show; a value that is None or missing becomes a dash.
        columns: By key of the rows, in order: the header and the format specification, such as
            ``{"accuracy": ("val acc.", ".4f")}``. The first column is flush left.
    """
    made = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for place, (header, _) in enumerate(columns.values()):
        made.add_column(header, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(
            *(
                "-" if row.get(key) is None else format(row[key], spec)
                for key, (_, spec) in columns.items()
            )
        )
    return made

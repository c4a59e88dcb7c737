"""Workers on the screen: a line for each, which says what it does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

_NAME_WIDTH = 42  # leaves room for the rest in 80 columns


@dataclass(frozen=True)
class Doing:
    """What a worker does.

    Args:
        name: Of a trial or a step.
        share: Of it that is done, 0 to 1; None while it has not said.
        found: So far.
    """

    name: str
    share: float | None = None
    found: str = ""


def worker_lines(
    workers: int, doing: Mapping[int | None, Doing], begun: Collection[int | None]
) -> Table:
    """A line for each worker, also while it waits, so that the lines below do not jump.

    Args:
        workers: How many there are; they count from 1.
        doing: What each of those does that do anything.
        begun: Those that have done anything; the others have yet to start.
    """
    table = Table.grid(Column(no_wrap=True), Column(min_width=4, max_width=20), padding=(0, 1))
    for worker in range(1, workers + 1):
        if (does := doing.get(worker)) is None:
            table.add_row(f"  worker {worker}: {'waits' if worker in begun else 'starts'}")
        elif does.share is None:
            table.add_row(Text(f"  worker {worker}: {fitting(does.name, _NAME_WIDTH)}"))
        else:
            table.add_row(
                Text(f"  worker {worker}: {fitting(does.name, _NAME_WIDTH)}"),
                ProgressBar(total=1.0, completed=does.share),
                Text(f"{does.share:4.0%}", no_wrap=True),
                Text(does.found, no_wrap=True),
            )
    return table


def fitting(name: str, width: int) -> str:
    """A name without its middle, if it is long: what tells names apart is at either end."""
    if len(name) <= width:
        return name
    head = width // 3
    return f"{name[:head]}…{name[head + 1 - width :]}"

"""Searches on screen: a bar for each study, a line for each of several workers.

Without a terminal, a line for each trial.
"""

from types import TracebackType
from typing import Any, Self

from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from lightning_adls.remaining import Remaining
from lightning_adls.search.driver import Running
from lightning_adls.search.listeners import Listener
from lightning_adls.search.search import Search
from lightning_adls.search.worker_lines import Doing, fitting, worker_lines

_NAME_WIDTH = 26


class Bars(Listener):
    """Shows each search that tells it of its trials; to be used as a context manager.

    Args:
        console: Where they are drawn.
        studies: How many searches there will be; those that it has not heard of yet are taken to
            have as many trials as the first is to have.
    """

    def __init__(self, console: Console, studies: int = 1) -> None:
        self._console, self._studies = console, studies
        self._searches: list[Search[Any]] = []
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            # As wide as there is room, up to that of other bars.
            BarColumn(bar_width=None, table_column=Column(min_width=4, max_width=40)),
            # Not what the bar shows, which has also the shares of trials that go on.
            TextColumn("{task.fields[ended]:>5}"),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._running: dict[int, Running] = {}  # by their places
        self._workers = 1
        self._begun: set[int | None] = set()  # workers, in any of their trials
        self._far = ""
        self._remaining: Remaining | None = None
        self._judged = False  # any trial
        self._live = Live(get_renderable=self._drawn, console=console)

    def __enter__(self) -> Self:
        # Else the last state of all bars would be printed once more, after their lines.
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running, self._workers = {}, 1
        self._live.stop()

    def begun(self, search: Search[Any]) -> None:
        """Add a bar."""
        self._searches.append(search)
        done = len(search.counted)
        best = "complete already" if search.complete else ""
        self._tasks[search.name] = self._bars.add_task(
            fitting(search.name, _NAME_WIDTH),
            total=search.total,
            completed=done,
            ended=f"{done}/{search.total}",
            best=best,
        )
        self._running, self._workers = {}, search.engine.workers
        if best and not self._console.is_terminal:
            self._print(f"{search.name} {done}/{search.total} {best}")

    def trial_moved(self, search: Search[Any], running: Running) -> None:
        """Move the bar on within a trial."""
        self._running = {**self._running, running.index: running}
        self._begun.add(running.worker)
        # From the first trial on: workers take a while to start.
        self._remaining = self._remaining or Remaining()
        self._update(search)

    def _update(self, search: Search[Any]) -> None:
        done = len(search.counted)
        self._bars.update(
            self._tasks[search.name],
            completed=done + self._within(),
            ended=f"{done}/{search.total}",
        )

    def _within(self) -> float:
        """What is done of trials that go on."""
        return sum(running.share for running in self._running.values())

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        """Move the bar on, and say why a trial failed."""
        place = trial.user_attrs["index"]
        by = self._running.get(place)
        self._running = {k: each for k, each in self._running.items() if k != place}
        done, curve = len(search.counted), search.curve
        best = f"best {_shown(curve[-1][1])}" if curve else "none complete"
        self._judged = self._judged or "same_as" not in trial.user_attrs
        self._far = self._how_far()
        self._bars.update(self._tasks[search.name], best=best)
        self._update(search)
        if error := trial.user_attrs.get("error"):
            self._print(f"{search.name} trial {place + 1}: {error}")
        if not self._console.is_terminal:
            state = trial.state.name.lower()
            if self._workers > 1:
                worker = f" by worker {by.worker}" if by and by.worker else ""
                state = f"trial {place + 1} {state}{worker}"
            self._print(f"{search.name} {done}/{search.total} {state}, {best}; {self._far}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _how_far(self) -> str:
        """How many trials of all searches are done, and how long the others will take."""
        totals = [search.total for search in self._searches]
        others = max(0, self._studies - len(totals))
        total = sum(totals) + others * self._searches[0].trials
        done = sum(len(search.counted) for search in self._searches)
        if self._remaining is None or not self._judged:
            # Repetitions of earlier trials, which take no time, tell nothing by themselves.
            return f"{done} of {total}"
        return self._remaining.after_one(done, total, begun=self._within(), hourly=True)

    def ended(self, search: Search[Any]) -> None:
        """Stop the clock of the bar."""
        self._bars.stop_task(self._tasks[search.name])
        self._running = {}

    def _drawn(self) -> RenderableType:
        parts: list[RenderableType] = [self._bars.get_renderable()]
        if self._workers > 1:
            doing = {
                running.worker: Doing(
                    f"trial {running.index + 1}", running.share, _reported(running)
                )
                for running in self._running.values()
            }
            parts.append(worker_lines(self._workers, doing, self._begun))
        if self._far:
            parts.append(Text(f"Trials of all studies: {self._far}", no_wrap=True))
        return Group(*parts)


def _reported(running: Running) -> str:
    if not running.reported:
        return ""
    step = max(running.reported)
    return f"{_shown(running.reported[step])} at {step}%"


def _shown(value: float) -> str:
    """Four places, and more of what would be 0 by them, such as a small divergence."""
    return f"{value:.4f}" if abs(value) >= 0.001 or not value else f"{value:.1e}"

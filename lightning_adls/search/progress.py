"""Searches on screen: a bar for each study; without a terminal, a line for each trial."""

from types import TracebackType
from typing import Any, Self

import lightning as L
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from lightning_adls.callbacks.progress import progress_of
from lightning_adls.devices import StaysHere
from lightning_adls.remaining import Remaining
from lightning_adls.search.listeners import Listener
from lightning_adls.search.search import Search


class Bars(Listener):
    """Shows each search that tells it of its trials; to be used as a context manager.

    Args:
        console: Where they are drawn.
        studies: How many searches there will be; those that it has not heard of yet are taken to
            have as many trials as the first is to have.
    """

    def __init__(self, console: Console, studies: int = 1) -> None:
        self._studies = studies
        self._searches: list[Search[Any]] = []
        self._remaining = Remaining()
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            console=console,
            # Else the last state of all bars would be printed once more, after their lines.
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begun(self, search: Search[Any]) -> None:
        """Add a bar."""
        self._searches.append(search)
        done = len(search.counted)
        best = "complete already" if search.complete else ""
        self._tasks[search.name] = self._bars.add_task(
            search.name, total=search.total, completed=done, best=best
        )
        self._current = self._tasks[search.name]
        if best and not self._bars.console.is_terminal:
            self._bars.console.print(f"{search.name} {done}/{search.total} {best}")

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        """Move the bar on, and say why a trial failed."""
        done, curve = len(search.counted), search.curve
        best = f"best {curve[-1][1]:.4f}" if curve else "none complete"
        far = self._far()
        self._bars.update(self._tasks[search.name], completed=done, best=f"{best}; {far}")
        console = self._bars.console
        if error := trial.user_attrs.get("error"):
            console.print(f"{search.name} trial {done}: {error}")
        if not console.is_terminal:
            state = f"{search.name} {done}/{search.total} {trial.state.name.lower()}, {best}"
            console.print(f"{state}; {far}", highlight=False, soft_wrap=True)

    def _far(self) -> str:
        """How many trials of all searches are done, and how long the others will take."""
        totals = [search.total for search in self._searches]
        others = max(0, self._studies - len(totals))
        total = sum(totals) + others * self._searches[0].trials
        return self._remaining.after_one(sum(len(s.counted) for s in self._searches), total)

    def ended(self, search: Search[Any]) -> None:
        """Stop the clock of the bar."""
        self._bars.stop_task(self._tasks[search.name])

    def within(self) -> L.Callback:
        """A callback for each training, by which the bar moves on within a trial."""
        return _Within(self._bars, self._current)


class _Within(StaysHere, L.Callback):
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task
        self._before = next(each.completed for each in bars.tasks if each.id == task)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        done, total = progress_of(trainer)
        self._bars.update(self._task, completed=self._before + done / total)

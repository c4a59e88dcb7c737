"""Steps on the screen that workers do at the same time: a line for each worker."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lightning_adls.search.worker_lines import Doing, worker_lines


class StepLines:
    """Shows which step each worker does, and how far its training is, until the block ends.

    Without a terminal nothing is drawn: what a step found is told when it ends.

    Args:
        console: Where it is drawn.
        workers: How many there are.
    """

    def __init__(self, console: Console, workers: int) -> None:
        self._console, self._workers = console, workers
        self._doing: dict[int | None, Doing] = {}
        self._begun: set[int | None] = set()
        self._live = Live(get_renderable=self._drawn, console=console, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def began(self, step: str, worker: int) -> None:
        """A worker has begun a step; one that another began has begun anew."""
        self.ended(step)
        self._doing[worker] = Doing(step)
        self._begun.add(worker)

    def moved(self, step: str, share: float) -> None:
        """A training has come so far.

        Args:
            step: Whose training it is.
            share: Of it that is done, 0 to 1.
        """
        for worker, doing in self._doing.items():
            if doing.name == step:
                self._doing[worker] = Doing(step, share)

    def ended(self, step: str) -> None:
        """A step has ended, or its worker."""
        self._doing = {w: doing for w, doing in self._doing.items() if doing.name != step}

    def _drawn(self) -> Table:
        return worker_lines(self._workers, self._doing, self._begun)

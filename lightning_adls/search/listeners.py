"""Who hears how a search goes on: files, bars on the screen, anything of your own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from lightning_adls.report import write_csv
from lightning_adls.search.results import trial_rows

if TYPE_CHECKING:
    from lightning_adls.search.driver import Running
    from lightning_adls.search.search import Search


_REST = 19  # times as long as it was written, a file is left as it is


class Listener:
    """Is told what happens in a search, in its order; a subclass overrides what it needs.

    An exception of a listener stops the search, which the same command continues.
    """

    def begun(self, search: "Search[Any]") -> None:
        """The search is about to run what is missing of it, which may be nothing."""

    def trial_moved(self, search: "Search[Any]", running: "Running") -> None:
        """A worker has begun a trial, or has spent a further share of its budget."""

    def trial_ended(self, search: "Search[Any]", trial: FrozenTrial) -> None:
        """A trial that counts has ended and is stored."""

    def ended(self, search: "Search[Any]") -> None:
        """The search has all its trials."""

    def stopped(self, search: "Search[Any]") -> None:
        """The search ends without all its trials: it is interrupted, or cannot go on.

        What goes wrong here is not told: why the search stops is.
        """


@dataclass(eq=False)
class RowsFile(Listener, ABC):
    """Keeps a CSV file with the rows of all trials so far; a subclass makes the rows.

    Rows change when another trial ends: a better one takes the place of the best, and one that
    began earlier comes before those that ended before it. So the file is written anew, but in no
    more than a twentieth of the time: a long one only after some of the trials. It is whole
    whenever a search ends or stops, and after a kill when the same command goes on.

    Args:
        path: Of the file.
        searches: By the name they have in it, in its order. It may grow.
    """

    path: Path
    searches: Mapping[str, "Search[Any]"]
    _changed: bool = field(default=False, init=False, repr=False)
    _due: float = field(default=0.0, init=False, repr=False)  # seconds of the monotonic clock

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all searches."""

    def begun(self, search: "Search[Any]") -> None:
        """Write what a process has not that was killed."""
        self._changed = self._changed or bool(search.counted)
        self._write_if_due()

    def trial_moved(self, search: "Search[Any]", running: "Running") -> None:
        """Write what was put off."""
        self._write_if_due()

    def trial_ended(self, search: "Search[Any]", trial: FrozenTrial) -> None:
        """Write the file anew, now or a little later."""
        self._changed = True
        self._write_if_due()

    def ended(self, search: "Search[Any]") -> None:
        """Write what was put off."""
        self._write_if_changed()

    stopped = ended

    def _write_if_due(self) -> None:
        if monotonic() >= self._due:
            self._write_if_changed()

    def _write_if_changed(self) -> None:
        if self._changed:
            self.write()

    def write(self) -> None:
        """Write the rows of all searches now."""
        started = monotonic()
        write_csv(self.path, self.rows())
        ended = monotonic()
        self._changed, self._due = False, ended + _REST * (ended - started)


@dataclass(eq=False)
class ResultsFile(RowsFile):
    """Keeps a CSV file with the rows of all trials so far; see :func:`trial_rows`."""

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all searches."""
        return trial_rows({name: search.study for name, search in self.searches.items()})

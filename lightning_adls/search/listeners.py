"""Who hears how a search goes on: files, bars on the screen, anything of your own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from lightning_adls.report import write_csv
from lightning_adls.search.results import trial_rows

if TYPE_CHECKING:
    from lightning_adls.search.driver import Running
    from lightning_adls.search.search import Search


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


@dataclass(frozen=True)
class ResultsFile(Listener):
    """Keeps a CSV file with the rows of all trials so far; see :func:`trial_rows`.

    Args:
        path: Of the file.
        searches: By the name they have in it, in its order. It may grow.
    """

    path: Path
    searches: Mapping[str, "Search[Any]"]

    def trial_ended(self, search: "Search[Any]", trial: FrozenTrial) -> None:
        """Write the file anew."""
        self.write()

    def write(self) -> None:
        """Write the rows of all searches."""
        studies = {name: search.study for name, search in self.searches.items()}
        write_csv(self.path, trial_rows(studies))

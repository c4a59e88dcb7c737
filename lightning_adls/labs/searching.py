"""How searches are shown in a lab, and how it ends where one cannot go on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning_adls.labs.ending import failing
from lightning_adls.search import Bars, Search, SearchFailed


@contextmanager
def searching(bars: Bars) -> Iterator[None]:
    """Show searches, and end with status 1 and one line if trial after trial failed."""
    with failing(SearchFailed), bars:
        yield


def add(
    searches: dict[str, Search[Any]], name: str, search: Search[Any], order: Iterable[str]
) -> None:
    """Add a search to those that were begun, and bring them into an order of names.

    What is made of them is then the same whenever each of them was begun.
    """
    found = {**searches, name: search}
    searches.clear()
    searches.update({each: found[each] for each in order if each in found})

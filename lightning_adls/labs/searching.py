"""How searches are shown in a lab, and how it ends where one cannot go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_adls.labs.ending import shown
from lightning_adls.search import Bars, SearchFailed


@contextmanager
def searching(bars: Bars) -> Iterator[None]:
    """Show searches, and end with status 1 and one line if trial after trial failed."""
    try:
        with bars:
            yield
    except SearchFailed as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        sys.exit(1)

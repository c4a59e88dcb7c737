"""How searches are shown in a lab, and how it ends where one cannot go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_adls.labs import cli
from lightning_adls.search import Bars, SearchFailed, StudyTaken


@contextmanager
def searching(bars: Bars) -> Iterator[None]:
    """Show searches, and end in one line where one cannot go on.

    The status is 1 if trial after trial failed, and 2 if another process runs the study.
    """
    try:
        with bars:
            yield
    except StudyTaken as error:
        cli.refuse(str(error))
    except SearchFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

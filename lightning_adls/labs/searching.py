"""What the labs that search have in common: how searches are shown, end, and are judged."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import MissingFileError
from lightning_adls.labs import cli
from lightning_adls.labs.run import Row, Run
from lightning_adls.labs.task import Task
from lightning_adls.search import Bars, Search, SearchFailed, StudyTaken

_TEST = "test"


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


def weights_of(search: Search[Any]) -> Path | None:
    """Where the weights of the best model are; if they are not here, says where they are missing.

    On a storage that several machines share, each has the weights of the trials that it ran.
    """
    if (best := search.best) is None:
        return None
    try:
        return search.objective.checkpoint(best)
    except MissingFileError as error:
        print(f"{search.name}: {error}", file=sys.stderr)
        return None


def tested(search: Search[Any]) -> float | None:
    """Accuracy of the best model on the test split, if a machine has read it already."""
    found = search.study.user_attrs.get(_TEST, {})
    if (best := search.best) is None or found.get("trial") != best.number:
        return None
    return float(found["accuracy"])


def test(run: Run, task: Task, search: Search[Any]) -> float:
    """Accuracy of the best model on the test split, which is read once: a step of its own.

    The study keeps it, so that every machine knows it. The weights must be here.
    """
    if (known := tested(search)) is not None:
        return known
    best, objective = search.best, search.objective
    assert best is not None  # its weights are here

    def read() -> Row:
        module = cast(TextClassifier, objective.load(best))
        return {"accuracy": task.test(module, objective.budget)}

    row = run.step(f"{_TEST}/{search.name}/{best.user_attrs['index'] + 1}", read)
    search.study.set_user_attr(_TEST, {"trial": best.number, "accuracy": row["accuracy"]})
    return float(row["accuracy"])

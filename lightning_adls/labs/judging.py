"""Judging the best model of a search, as far as this machine can, and testing it once."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import MissingFileError
from lightning_adls.labs import concerns
from lightning_adls.labs.run import Run
from lightning_adls.labs.task import Task
from lightning_adls.report import Row
from lightning_adls.search import Search
from lightning_adls.transforms.cost import COSTS, costs
from lightning_adls.weights import save_weights

_TEST = "test"


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
    best, step = _best_step(search)
    row = run.step(
        f"{_TEST}/{step}",
        lambda: {"accuracy": task.test(_best(search), search.objective.budget)},
    )
    search.study.set_user_attr(_TEST, {"trial": best.number, "accuracy": row["accuracy"]})
    concerns.say(concerns.about_test(search.name, best.value, row["accuracy"], task.texts))
    return float(row["accuracy"])


def judge(run: Run, task: Task, search: Search[Any]) -> Row:
    """Accuracies and costs of the best model of a search.

    If its weights are on another machine they are those that the storage knows, and ``checkpoint``
    is None.
    """
    best, step = _best_step(search)
    row = {
        "study": search.name,
        "trial": best.user_attrs["index"] + 1,
        "architecture": best.user_attrs["choice"],
        "before_compression": best.user_attrs.get("before_compression"),
    }
    weights = weights_of(search)
    if weights is None:
        found = {"accuracy": best.value, **{name: best.user_attrs[name] for name in COSTS}}
        return {**row, "checkpoint": None, "test_accuracy": tested(search), **found}
    found = run.step(step, lambda: _validated(task, _best(search), search))
    path = str(weights.relative_to(run.folder))
    return {**row, "checkpoint": path, "test_accuracy": test(run, task, search), **found}


def judge_compressed(
    run: Run, task: Task, search: Search[Any], compress: Callable[[L.LightningModule], object]
) -> Row:
    """The same, if the model is compressed now and not trained again; the weights must be here."""
    best, step = _best_step(search)
    step = f"compressed/{step}"
    path = run.checkpoint(step)

    def compressed() -> TextClassifier:
        module = _best(search)
        compress(module)
        return module

    def work() -> Row:
        module = compressed()
        save_weights(module, path)
        return _validated(task, module, search)

    found = run.step(step, work)
    read = run.step(
        f"{_TEST}/{step}", lambda: {"accuracy": task.test(compressed(), search.objective.budget)}
    )
    run.keep([step])
    return {
        "study": search.name,
        "trial": best.user_attrs["index"] + 1,
        "architecture": best.user_attrs["choice"],
        "before_compression": best.value,
        "checkpoint": str(path.relative_to(run.folder)),
        "test_accuracy": read["accuracy"],
        **found,
    }


def _best_step(search: Search[Any]) -> tuple[Any, str]:
    """The best trial, and what steps about it are called."""
    best = search.best
    assert best is not None  # who calls has looked
    return best, f"{search.name}/{best.user_attrs['index'] + 1}"


def _best(search: Search[Any]) -> TextClassifier:
    return cast(TextClassifier, search.objective.load(_best_step(search)[0]))


def _validated(task: Task, module: TextClassifier, search: Search[Any]) -> Row:
    return {
        "accuracy": task.validate(module, search.objective.budget),
        **costs(module.model),
    }

"""Judging the best model of a search, as far as this machine can, and testing it once."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import lightning as L

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import MissingFileError
from lightning_adls.labs import concerns
from lightning_adls.labs.classified import flips_between, right
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.columns import FLIPS, accuracy, accuracy_before, chosen, measured
from lightning_adls.labs.run import Run
from lightning_adls.labs.task import Task
from lightning_adls.report import Row
from lightning_adls.search import Objective, Search
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
        return _objective(search).checkpoint(best)
    except MissingFileError as error:
        print(f"{search.name}: {error}", file=sys.stderr)
        return None


def tested(search: Search[Any]) -> Row:
    """Accuracy of the best model on the test split, and its standard error; None if not yet read.

    Whichever machine read it.
    """
    found = search.study.user_attrs.get(_TEST, {})
    if (best := search.best) is None or found.get("trial") != best.number:
        found = {}
    return accuracy("test", found.get("accuracy"), found.get("rows"))


def test(run: Run, task: Task, search: Search[Any]) -> None:
    """Test the best model, once: a step of its own, after one that says it of the validation rows.

    The study keeps what it found, so that every machine knows it: see :func:`tested`. The weights
    must be here.
    """
    if tested(search)["test_accuracy"] is not None:
        return
    best, step = _best_step(search)
    val = _validate(run, task, search)["accuracy"]
    row = run.step(
        f"{_TEST}/{step}",
        lambda: task.test(load_best(search), _objective(search).budget, run.answers("test", step)),
    )
    search.study.set_user_attr(_TEST, {"trial": best.number, **row})
    concerns.say(concerns.about_test(search.name, val, row["accuracy"], task.texts))


def judge(run: Run, task: Task, search: Search[Any], monitoring: Monitoring) -> Row:
    """Accuracies and costs of the best model of a search.

    That on the validation split is of the rows that ``monitoring`` reports on. If its weights are
    on another machine they are those that the storage knows, and ``checkpoint`` is None.
    """
    best, step = _best_step(search)
    row = {
        "study": search.name,
        "trial": best.user_attrs["index"] + 1,
        "architecture": best.user_attrs["choice"],
        **accuracy_before(monitoring.accuracy_before(best), monitoring.reporting_rows),
    }
    val_rows = monitoring.reporting_rows
    weights = weights_of(search)
    if weights is None:
        known = {name: best.user_attrs[name] for name in COSTS}
        judged = accuracy("val", monitoring.accuracy(best), val_rows)
        return {**row, "checkpoint": None, **judged, **tested(search), **known}
    found = dict(_validate(run, task, search))
    test(run, task, search)
    path = str(weights.relative_to(run.folder))
    judged = reported(run, step, found.pop("accuracy"), monitoring)
    return {**row, "checkpoint": path, **judged, **tested(search), **found}


def judge_compressed(
    run: Run,
    task: Task,
    search: Search[Any],
    compress: Callable[[L.LightningModule], object],
    monitoring: Monitoring,
) -> Row:
    """The same, if the model is compressed now and not trained again; the weights must be here."""
    best, source = _best_step(search)
    step = f"compressed/{source}"
    path = run.checkpoint(step)

    def compressed() -> TextClassifier:
        module = load_best(search)
        compress(module)
        return module

    def work() -> Row:
        module = compressed()
        save_weights(module, path)
        return _validated(task, module, search, run.answers("val", step))

    found = dict(run.step(step, work))
    read = run.step(
        f"{_TEST}/{step}",
        lambda: task.test(compressed(), _objective(search).budget, run.answers("test", step)),
    )
    run.keep([step])
    return {
        "study": search.name,
        "trial": best.user_attrs["index"] + 1,
        "architecture": best.user_attrs["choice"],
        **accuracy_before(monitoring.accuracy(best), monitoring.reporting_rows),
        "checkpoint": str(path.relative_to(run.folder)),
        **reported(run, step, found.pop("accuracy"), monitoring),
        **accuracy("test", read["accuracy"], read.get("rows")),
        **found,
        **reported_flips(run, source, step, monitoring),
    }


def reported(run: Run, step: str, on_all: float, monitoring: Monitoring) -> Row:
    """The columns of a step's accuracy on the rows that are reported on."""
    value = _among(run, step, on_all, monitoring.reporting)
    return accuracy("val", value, monitoring.reporting_rows)


def compared(run: Run, step: str, on_all: float, monitoring: Monitoring) -> Row:
    """The columns of a step's accuracy on the rows that trials are compared on."""
    value = _among(run, step, on_all, monitoring.comparing)
    return measured("value", round(value, 6), monitoring.choosing_rows)


def _among(run: Run, step: str, on_all: float, rows: Collection[int] | None) -> float:
    if rows is None:
        return on_all
    known = right(run.answers("val", step), rows)
    assert known is not None  # the step has just written it, or an earlier call
    return fmean(known.values())


def step_of(search: Search[Any]) -> str:
    """The step that has what the best model of a search answers; there has to be one."""
    return _best_step(search)[1]


def reported_flips(run: Run, before: str, after: str, monitoring: Monitoring) -> Row:
    """Rows that the models of two steps answer differently, of those that are reported on.

    None where the answers of one are not known.
    """
    old, new = run.answers("val", before), run.answers("val", after)
    return chosen(flips_between(old, new, monitoring.reporting), FLIPS)


def _best_step(search: Search[Any]) -> tuple[Any, str]:
    """The best trial, and what steps about it are called."""
    best = search.best
    assert best is not None  # who calls has looked
    return best, f"{search.name}/{best.user_attrs['index'] + 1}"


def load_best(search: Search[Any]) -> TextClassifier:
    """The best model; there has to be one, and its weights have to be here."""
    return cast(TextClassifier, _objective(search).load(_best_step(search)[0]))


def _objective(search: Search[Any]) -> Objective[Any]:
    return cast(Objective[Any], search.objective)  # labs have no other


def _validate(run: Run, task: Task, search: Search[Any]) -> Row:
    """What the best model says of each validation row: a step of its own."""
    _, step = _best_step(search)
    answers = run.answers("val", step)
    return run.step(step, lambda: _validated(task, load_best(search), search, answers))


def _validated(task: Task, module: TextClassifier, search: Search[Any], answers: Path) -> Row:
    return {
        "accuracy": task.validate(module, _objective(search).budget, answers),
        **costs(module.model),
    }

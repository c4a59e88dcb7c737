"""Uniform recipes, the same formats for all layers: what searches have to beat."""

from collections.abc import Mapping
from functools import partial

from lightning_adls.budget import Budget
from lightning_adls.labs.compression import Work
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.rows.columns import COSTS, accuracy, chosen
from lightning_adls.report import Row
from lightning_adls.transforms import Quantize

_PREFIX = "uniform"


def uniform_steps(recipes: Mapping[str, Quantize], budget: Budget, train: bool) -> dict[str, Work]:
    """Steps that judge recipes as trials are judged: from the same start, within the same budget.

    Args:
        recipes: By name, such as ``MXInt 4``.
        budget: What each may spend on training; its precision is that of the judgement.
        train: Whether they are trained, as the trials that they are compared with.
    """

    def work(run: ModelRun, step: str, recipe: Quantize) -> Row:
        module = run.task.build(recipe)
        if train:
            return run.train(step, module, budget, [recipe])
        return run.judge(step, module, budget, [recipe])

    return {
        step: partial(work, step=step, recipe=recipe)
        for name, recipe in recipes.items()
        for step in [f"{_PREFIX}/{name}"]
    }


def uniform_rows(run: ModelRun) -> dict[str, Row]:
    """By name, accuracy and costs of the uniform recipes so far.

    Figures look for them in ``summary.json``, under ``uniform``.
    """
    val_rows = run.task.texts.row_counts["val"]
    return {
        step.removeprefix(f"{_PREFIX}/"): {
            **accuracy("val", row["accuracy"], val_rows),
            **chosen(row, COSTS),
        }
        for step, row in run.rows.items()
        if step.startswith(f"{_PREFIX}/")
    }

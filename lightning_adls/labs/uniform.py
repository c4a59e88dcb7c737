"""Uniform recipes, the same formats for all layers: what searches have to beat."""

from collections.abc import Mapping
from functools import partial

from lightning_adls.budget import Budget
from lightning_adls.labs.compression import Work
from lightning_adls.labs.judging import reported
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.columns import COSTS, chosen
from lightning_adls.report import Row
from lightning_adls.transforms import Quantize


def _prefix(train: bool) -> str:
    """What their steps begin with: it tells those that train from those that do not."""
    return f"uniform/{'trained' if train else 'untrained'}/"


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
        for step in [_prefix(train) + name]
    }


def uniform_rows(run: ModelRun, train: bool, monitoring: Monitoring) -> dict[str, Row]:
    """By name, accuracy and costs of the uniform recipes so far.

    Figures look for them in ``summary.json``, under ``uniform``.

    Args:
        run: Has the steps.
        train: Those that were trained, or those that were not.
        monitoring: Knows the rows that accuracies are reported on.
    """
    return {
        step.removeprefix(_prefix(train)): {
            **reported(run, step, row["accuracy"], monitoring),
            **chosen(row, COSTS),
        }
        for step, row in run.rows.items()
        if step.startswith(_prefix(train))
    }

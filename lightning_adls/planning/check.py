"""How far a plan can be trusted: predicted losses beside measured ones."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape
from math import isnan
from statistics import median
from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.planning.measuring import Measure, Measured, divergence, measured
from lightning_adls.planning.planner import Plan
from lightning_adls.planning.samples import Split, rows_of
from lightning_adls.planning.scores import Scores
from lightning_adls.significance import Correlation, rank_correlation
from lightning_adls.transforms.quantize import Quantize


@dataclass(frozen=True)
class PlanCheck:
    """Predicted and measured losses of a plan and of random ones.

    Args:
        predicted: Of the plan.
        measured: The same.
        others: Predicted and measured, of each random plan.
        correlation: Of the ranks of these, with its p-value.
    """

    predicted: float
    measured: Measured
    others: tuple[tuple[float, Measured], ...]
    correlation: Correlation

    @property
    def ratio(self) -> float:
        """Median over the random plans of measured over predicted; 1 is well calibrated."""
        found = [m.mean / predicted for predicted, m in self.others if predicted > 0]
        return median(found) if found else float("nan")

    def rows(self) -> list[dict[str, str | float]]:
        """A row for each plan: ``plan``, ``predicted``, ``measured``, ``standard_error``."""
        found = [("plan", self.predicted, self.measured)]
        found += [(f"random {n}", p, m) for n, (p, m) in enumerate(self.others)]
        return [
            {"plan": n, "predicted": p, "measured": m.mean, "standard_error": m.standard_error}
            for n, p, m in found
        ]

    def __str__(self) -> str:
        said = f"predicted {self.predicted:.3g}, measured {self.measured}"
        if isnan(self.correlation.value):
            return f"{said}\nall plans are predicted alike, so that nothing can be ranked"
        return (
            f"{said}\n"
            f"{len(self.others)} random plans: rank correlation {self.correlation.value:.2f} "
            f"(p={self.correlation.p_value:.2g}), measured {self.ratio:.2f} times "
            "what was predicted"
        )


def check_plan(
    model: nn.Module,
    batches: Iterable[Any],
    scores: Scores,
    plan: Plan,
    *,
    plans: int = 20,
    seed: int = 0,
    measure: Measure | None = None,
    split: Split = rows_of,
) -> PlanCheck:
    """Measure a plan, and random ones of the same groups and formats.

    In a random plan each group is given one of the formats, all equally probable. What their
    correlation says is whether scores rank plans, over all budgets.

    Args:
        model: Left as it was.
        batches: On the device of the model; others than those that the scores are of tell more.
        scores: That the plan was made with.
        plan: What :func:`lightning_adls.planning.plan` gave.
        plans: How many random ones, 3 or more.
        seed: Of these.
        measure: What is measured, by default :func:`divergence`.
        split: As in :func:`sensitivity`.

    Raises:
        InputValueError: If ``plans`` is below 3, there are no samples, or a score is missing.
    """
    if plans < 3:
        raise InputValueError(f"check_plan: plans={plans} is below 3.")
    draw = random.Random(seed)
    recipes, predicted = [plan.recipe], []
    for _ in range(plans):
        pairs = zip(plan.groups, plan.choices, strict=True)
        drawn = [(group, draw.choice(choices)) for group, choices in pairs]
        predicted.append(sum(scores.of(n, choice) for group, choice in drawn for n in group))
        given = {escape(n): choice for group, choice in drawn for n in group}
        recipes.append(Quantize({**plan.recipe.layers, **given}, plan.recipe.kinds))
    mine, *others = measured(model, recipes, batches, measure or divergence(), split)
    correlation = rank_correlation(predicted, [found.mean for found in others], seed)
    found = tuple(zip(predicted, others, strict=True))
    return PlanCheck(plan.predicted, mine, found, correlation)

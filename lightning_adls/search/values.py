"""What a trial reached: the metric, which is the first objective, and the costs beside it.

Optuna keeps no reports of trials with several objectives: theirs are a user attribute.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_adls.search.modes import Mode, merit

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

REPORTED = "reported"


def reports_of(trial: "FrozenTrial") -> dict[int, float]:
    """The metric by percent of the trial's budget."""
    if (reported := trial.user_attrs.get(REPORTED)) is not None:
        return {int(step): value for step, value in reported.items()}
    return trial.intermediate_values


def value_of(trial: "FrozenTrial") -> float | None:
    """The metric that a trial reached, or that it reported last if it was pruned."""
    if trial.values:
        return float(trial.values[0])
    reported = trial.user_attrs.get(REPORTED)
    return reports_of(trial)[max(map(int, reported))] if reported else None


def rank_of(values: Sequence[float], index: int, mode: Mode = "max") -> tuple[float, ...]:
    """What is highest for the best trial: the metric, then the costs, then its place.

    Args:
        values: The metric, and costs in their order.
        index: Of the trial among those that count: of equals the first is the best.
        mode: Whether the metric is to be high or low.

    Example:
        >>> rank_of([0.9, 4.0], 7) > rank_of([0.9, 8.0], 2)
        True
    """
    metric, *costs = values
    return (merit(metric, mode), *(-cost for cost in costs), -index)

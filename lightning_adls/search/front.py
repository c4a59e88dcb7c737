"""The Pareto front of trials, and how much it dominates: the metric over one cost."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from lightning_adls.search.modes import Mode, merit

Point = tuple[float, float]


def pareto(points: Sequence[Point], mode: Mode = "max") -> list[Point]:
    """Of points ``(cost, value)`` those that no other one outdoes in both, the cheapest first.

    Example:
        >>> pareto([(8, 0.9), (4, 0.7), (6, 0.7), (16, 0.9), (4, 0.6)])
        [(4, 0.7), (8, 0.9)]
    """
    front: list[Point] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -merit(point[1], mode))):
        if not front or merit(value, mode) > merit(front[-1][1], mode):
            front.append((cost, value))
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area that points ``(cost, value)`` dominate and that dominates the reference.

    Exact; Zitzler and Thiele 1998, "Multiobjective Optimization Using Evolutionary Algorithms - A
    Comparative Case Study".

    Args:
        points: Less cost and more value are better.
        reference: A cost and a value that are as bad as can be; what is no better than it in both
            adds nothing.

    Returns:
        In units of cost times value.

    Example:
        >>> hypervolume([(4.0, 0.75), (8.0, 1.0)], reference=(16.0, 0.5))
        5.0
    """
    most, height = reference
    area = 0.0
    for cost, value in pareto([p for p in points if p[0] < most and p[1] > reference[1]]):
        area += (most - cost) * (value - height)
        height = value
    return area


def point_of(trial: FrozenTrial, cost: str) -> Point | None:
    """Cost and metric of a complete trial; None of any other, or where the cost is not known."""
    if trial.state != TrialState.COMPLETE or cost not in trial.user_attrs:
        return None
    return float(trial.user_attrs[cost]), float(trial.values[0])


def front_of(trials: Sequence[FrozenTrial], cost: str, mode: Mode = "max") -> list[FrozenTrial]:
    """The trials on the Pareto front, the cheapest first; of equals the first.

    Args:
        trials: Those that count, in order.
        cost: Name of a cost that trials note, such as ``bits_per_weight``.
        mode: Whether the metric is to be high or low.
    """
    by_point: dict[Point, FrozenTrial] = {}
    for trial in trials:
        if (point := point_of(trial, cost)) is not None:
            by_point.setdefault(point, trial)
    return [by_point[point] for point in pareto([*by_point], mode)]


def hypervolumes(trials: Sequence[FrozenTrial], cost: str, reference: Point) -> list[float | None]:
    """:func:`hypervolume` of the trials so far, after each; None before the first complete one."""
    found: list[float | None] = []
    front: list[Point] = []
    for trial in trials:
        if (point := point_of(trial, cost)) is not None:
            front = pareto([*front, point])
        found.append(hypervolume(front, reference) if front else None)
    return found


def reference_of(trials: Sequence[FrozenTrial], cost: str, value: float = 0.0) -> Point:
    """A reference for hypervolumes: the highest cost of complete trials, and a value.

    A trial of the highest cost itself adds nothing. Hypervolumes of several searches can be
    compared if their trials together give the reference.
    """
    points = [point for trial in trials if (point := point_of(trial, cost)) is not None]
    return max((point[0] for point in points), default=0.0), value

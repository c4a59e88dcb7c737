"""The multiple-choice knapsack problem: one option of each group, least score within a budget."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_adls.errors import InputValueError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Partial choices that the first, inexact pass keeps. It only makes the exact pass shorter.
_BEAM = 256


def choose(
    costs: Sequence[Sequence[int]], scores: Sequence[Sequence[float]], budget: int
) -> list[int]:
    """The option of each group that together have the least score and cost at most ``budget``.

    Exact: partial choices are dropped only where another one costs no more and scores no more
    (dynamic programming with dominance), or where the linear relaxation shows that no completion
    is as good as a choice that is known. See Kellerer, Pferschy, Pisinger 2004, "Knapsack
    Problems", chapter 11. Scores are compared to within 1e-12 of their sum.

    Args:
        costs: Of the options of each group, whole numbers.
        scores: Of the same options, finite.
        budget: Most that the chosen options may cost together.

    Returns:
        Place of the chosen option in each group; the same for the same arguments.

    Raises:
        InputValueError: If the cheapest options cost more than the budget.

    Example:
        >>> choose([[4, 8], [4, 8]], [[0.3, 0.1], [0.5, 0.1]], 12)
        [0, 1]
    """
    least = sum(min(options) for options in costs)
    if least > budget:
        raise InputValueError(f"choose: budget={budget} is below {least}, the least possible cost.")
    groups = [_undominated(c, s) for c, s in zip(costs, scores, strict=True)]
    price, greedy = _relaxed(groups, budget)
    known = sum(float(s[at]) for (_, s, _), at in zip(groups, greedy, strict=True))
    problem = _Problem(groups, budget, price)
    known = min(known, problem.solve(known, _BEAM)[0])
    chosen = problem.solve(known, None)[1]
    return [int(places[at]) for (_, _, places), at in zip(groups, chosen, strict=True)]


_Group = tuple[Ints, Floats, Ints]


def _undominated(costs: Sequence[int], scores: Sequence[float]) -> _Group:
    """Options by rising cost and falling score, and their places in what was given."""
    c, s = np.asarray(costs, np.int64), np.asarray(scores, np.float64)
    order = np.lexsort((s, c))
    kept = order[_falling(s[order])]
    return c[kept], s[kept], kept.astype(np.int64)


def _falling(values: Floats) -> NDArray[np.bool_]:
    """Where a value is below all before it."""
    before = np.concatenate([[np.inf], np.minimum.accumulate(values)[:-1]])
    return values < before


def _relaxed(groups: Sequence[_Group], budget: int) -> tuple[float, list[int]]:
    """The price of a unit of cost in the linear relaxation, and a choice that it suggests.

    Steps along the lower hull of each group are taken in the order of what they gain per cost
    (Zemel 1980, "The linear multiple choice knapsack problem"). The price is the gain of the first
    that no longer fits.
    """
    steps = []
    for place, (costs, scores, _) in enumerate(groups):
        at = 0
        while at + 1 < len(costs):
            gains = (scores[at] - scores[at + 1 :]) / (costs[at + 1 :] - costs[at])
            further = at + 1 + int(np.flatnonzero(gains == gains.max())[-1])
            steps.append((-float(gains.max()), place, at, further))
            at = further
    chosen, left = [0] * len(groups), budget - sum(int(costs[0]) for costs, _, _ in groups)
    price = 0.0
    for gain, place, at, further in sorted(steps):
        costs = groups[place][0]
        step = int(costs[further] - costs[at])
        # One that was left out takes those after it in its group along.
        if chosen[place] == at and step <= left:
            chosen[place] = further
            left -= step
        else:
            price = price or -gain
    return price, chosen


class _Problem:
    """Groups with what the relaxation says of each option."""

    def __init__(self, groups: Sequence[_Group], budget: int, price: float) -> None:
        self.groups, self.budget = groups, budget
        priced = [scores + price * costs for costs, scores, _ in groups]
        # No choice within the budget has a score below this, and one whose options lie above the
        # best of their groups by some sum none below this and that sum.
        self.bound = sum(float(p.min()) for p in priced) - price * budget
        self.above = [p - p.min() for p in priced]
        self.slack = 1e-12 * (1e-300 + sum(float(np.abs(p).max()) for p in priced))
        least = [int(costs[0]) for costs, _, _ in groups]
        self.rest = [sum(least[place + 1 :]) for place in range(len(groups))]

    def solve(self, known: float, most: int | None) -> tuple[float, list[int]]:
        """The least score and its choice; with ``most`` partial choices kept, a good one."""
        gap = known - self.bound + self.slack
        cost, score, above = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
        history: list[tuple[Ints, Ints]] = []
        for (costs, scores, _), extra, rest in zip(self.groups, self.above, self.rest, strict=True):
            cost = np.add.outer(cost, costs).ravel()
            score = np.add.outer(score, scores).ravel()
            above = np.add.outer(above, extra).ravel()
            possible = np.flatnonzero((cost + rest <= self.budget) & (above <= gap))
            order = possible[np.lexsort((score[possible], cost[possible]))]
            kept = order[_falling(score[order])]
            if most is not None and len(kept) > most:
                # By cost again, and of equal ones in the same order.
                kept = np.sort(kept[np.argsort(above[kept], kind="stable")[:most]])
            history.append((kept // len(costs), kept % len(costs)))
            cost, score, above = cost[kept], score[kept], above[kept]
        if not len(score):  # a beam that has lost every choice as good as the known one
            return np.inf, []
        at = int(score.argmin())
        best, chosen = float(score[at]), []
        for parents, options in reversed(history):
            chosen.append(int(options[at]))
            at = int(parents[at])
        return best, chosen[::-1]

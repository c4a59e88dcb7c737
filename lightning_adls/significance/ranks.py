"""Whether two rankings have to do with each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from lightning_adls.errors import InputValueError


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of two rankings.

    Attributes:
        value: -1 to 1; NaN where all values of one are the same.
        p_value: Probability of one at least as far from 0 if the two had nothing to do with each
            other; 1 where ``value`` is NaN.
    """

    value: float
    p_value: float


def rank_correlation(
    first: Sequence[float], second: Sequence[float], seed: int = 0, permutations: int = 9999
) -> Correlation:
    """Spearman's rank correlation, with the p-value of a permutation test.

    Ties have the mean of their ranks. The test draws permutations and counts what was found as one
    of them (Phipson and Smyth 2010, "Permutation P-values should never be zero"), so that the
    p-value is at least ``1 / (permutations + 1)``.

    Args:
        first: At least two numbers.
        second: As many.
        seed: Of the permutations.
        permutations: How many are drawn.

    Raises:
        InputValueError: If there are fewer than two numbers, or not as many of both.

    Example:
        >>> round(rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]).value, 6)
        1.0
    """
    import numpy as np

    if len(first) < 2 or len(first) != len(second):
        raise InputValueError(
            f"rank_correlation: first has {len(first)} values and second {len(second)}; give as "
            "many of both, at least two."
        )
    x, y = (np.array(_ranks(values)) for values in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = sqrt(float(x @ x) * float(y @ y))
    if not scale:
        return Correlation(float("nan"), 1.0)
    shuffled = np.random.default_rng(seed).permuted(np.tile(y, (permutations, 1)), axis=1)
    found = abs(float(x @ y)) - 1e-9 * scale  # sums in another order differ in their last bits
    as_far = int((np.abs(shuffled @ x) >= found).sum())
    return Correlation(float(x @ y) / scale, (as_far + 1) / (permutations + 1))


def _ranks(values: Sequence[float]) -> list[float]:
    """Each value's place among all of them; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

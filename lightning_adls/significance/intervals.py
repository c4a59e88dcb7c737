"""How large the difference between two models may be."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

from lightning_adls.errors import InputValueError


class Interval(NamedTuple):
    """A confidence interval of a difference between two accuracies, each bound -1 to 1."""

    low: float
    high: float


def paired_interval(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> Interval:
    """Confidence interval of an accuracy minus another one that was measured on the same rows.

    Method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17: the score intervals of both
    accuracies (Wilson 1927) put together, less what the two have in common, which is their
    correlation with a continuity correction. It does not end beyond -1 and 1, and has a width also
    where the models never disagree.

    It need not agree with the p-value of :func:`paired`, which is of an exact test, at the edge.

    Args:
        first: Whether the model was right, row by row.
        second: The same of the model that is subtracted, on the same rows.
        confidence: Share of such intervals that hold the true difference, between 0 and 1.

    Raises:
        InputValueError: If there are no rows, or not as many of both, or ``confidence`` is not
            between 0 and 1.

    Example:
        >>> both, one, other, none = [14, 5, 0, 22]
        >>> first = [True] * (both + one) + [False] * (other + none)
        >>> second = [True] * both + [False] * one + [True] * other + [False] * none
        >>> "{:.3f} to {:.3f}".format(*paired_interval(first, second))
        '0.011 to 0.226'
    """
    rows = len(first)
    if not rows or rows != len(second):
        raise InputValueError(
            f"paired_interval: first has {rows} rows and second {len(second)}; give both of the "
            "same rows."
        )
    if not 0 < confidence < 1:
        raise InputValueError(f"paired_interval: confidence={confidence} is not between 0 and 1.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    right, other_right = sum(map(bool, first)), sum(map(bool, second))
    low, high = _score_interval(right, rows, z)
    other_low, other_high = _score_interval(other_right, rows, z)
    p, q = right / rows, other_right / rows
    both = sum(a and b for a, b in zip(first, second, strict=True))
    common = _correlation(both, right, other_right, rows)

    def together(one: float, other: float) -> float:
        return sqrt(max(0.0, one**2 - 2 * common * one * other + other**2))

    down, up = together(p - low, other_high - q), together(high - p, q - other_low)
    # Both are at most 1 apart, but for their last bits.
    return Interval(max(-1.0, p - q - down), min(1.0, p - q + up))


def _score_interval(right: int, rows: int, z: float) -> Interval:
    """Of one accuracy.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22.
    """
    p, spread = right / rows, z * z / rows
    middle = (p + spread / 2) / (1 + spread)
    half = sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
    return Interval(middle - half, middle + half)


def _correlation(both: int, right: int, other_right: int, rows: int) -> float:
    """Of being right, over the rows; a positive one is taken nearer to 0 by half a row."""
    scale = right * (rows - right) * other_right * (rows - other_right)
    if not scale:
        return 0.0
    covariance = float(rows * both - right * other_right)
    if covariance > 0:
        covariance = max(0.0, covariance - rows / 2)
    return covariance / sqrt(scale)

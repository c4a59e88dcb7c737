"""Whether two accuracies differ by more than chance: standard errors and tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb, erfc, sqrt
from statistics import NormalDist, stdev

from lightning_adls.errors import InputValueError
from lightning_adls.significance.intervals import Interval, paired_interval

# A difference is one where chance alone would show as large a one in fewer than 1 of 20 cases.
LEVEL = 0.05


def standard_error(accuracy: float, rows: int) -> float:
    """Binomial standard error of an accuracy that was measured on so many independent rows.

    Example:
        >>> round(standard_error(0.863, 2000), 4)
        0.0077
    """
    _check(rows, accuracy)
    return sqrt(accuracy * (1 - accuracy) / rows)


def standard_error_of_mean(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values, such as of several seeds.

    Raises:
        InputValueError: If there are fewer than two.

    Example:
        >>> round(standard_error_of_mean([0.8, 0.9]), 4)
        0.05
    """
    if len(values) < 2:
        raise InputValueError(
            f"standard_error_of_mean: values has {len(values)}; give two or more."
        )
    return stdev(values) / sqrt(len(values))


@dataclass(frozen=True)
class Difference:
    """An accuracy minus another one.

    Attributes:
        value: The difference, -1 to 1.
        standard_error: Of it.
        p_value: Probability of a difference at least as large if both were equally good.
        paired: Whether both were measured on the same rows, and compared row by row.
        interval: Holds the true difference with 95 % confidence; None where it is not known.
    """

    value: float
    standard_error: float
    p_value: float
    paired: bool
    interval: Interval | None = field(default=None, compare=False)

    @property
    def real(self) -> bool:
        """Whether it is more than chance would often show; see ``LEVEL``."""
        return self.p_value < LEVEL


def unpaired(first: float, second: float, rows: int, other_rows: int | None = None) -> Difference:
    """Compare two accuracies of which only the numbers of rows are known.

    The test and the interval are those of Agresti and Caffo (2000, "Simple and effective confidence
    intervals for proportions and differences of proportions", The American Statistician 54):
    normal, with one right and one wrong row added to each, so that no standard error is 0.
    On the same rows it is careful: models mostly fail on the same ones.

    Args:
        first: Accuracy, 0 to 1.
        second: Accuracy that is subtracted.
        rows: Behind ``first``.
        other_rows: Behind ``second``; by default as many.
    """
    others = rows if other_rows is None else other_rows
    _check(rows, first)
    _check(others, second)
    value = first - second
    shares = [((p * n + 1) / (n + 2), n + 2) for p, n in ((first, rows), (second, others))]
    error = sqrt(sum(p * (1 - p) / n for p, n in shares))
    middle = shares[0][0] - shares[1][0]
    half = NormalDist().inv_cdf(1 - LEVEL / 2) * error
    interval = Interval(max(-1.0, middle - half), min(1.0, middle + half))
    p_value = erfc(abs(middle) / error / sqrt(2))
    return Difference(value, error, p_value, paired=False, interval=interval)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two models row by row, by McNemar's exact test on the rows where they disagree.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12. The interval is :func:`paired_interval`.

    Args:
        first: Whether the model was right, row by row.
        second: The same of the model that is subtracted, on the same rows.

    Raises:
        InputValueError: If there are no rows, or not as many of both.
    """
    rows = len(first)
    if not rows or rows != len(second):
        raise InputValueError(
            f"paired: first has {rows} rows and second {len(second)}; give both of the same rows."
        )
    gained = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    value = (gained - lost) / rows
    error = sqrt(gained + lost - (gained - lost) ** 2 / rows) / rows
    p_value = _binomial(min(gained, lost), gained + lost)
    interval = paired_interval(first, second, 1 - LEVEL)
    return Difference(value, error, p_value, paired=True, interval=interval)


def _binomial(fewer: int, tossed: int) -> float:
    """Two-sided probability of so few heads, or tails, of a fair coin."""
    tail = sum(comb(tossed, heads) for heads in range(fewer + 1))
    return min(1.0, tail / 2 ** (tossed - 1)) if tossed else 1.0


def _check(rows: int, accuracy: float) -> None:
    if rows < 1:
        raise InputValueError(f"standard_error: rows={rows} is below 1.")
    if not 0 <= accuracy <= 1:
        raise InputValueError(f"standard_error: accuracy={accuracy} is not in 0..1.")

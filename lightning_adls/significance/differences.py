"""Whether two accuracies differ by more than chance: standard errors and tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import atan2, comb, cos, erfc, fsum, pi, sin, sqrt
from statistics import NormalDist, fmean, stdev

from lightning_adls.errors import InputValueError
from lightning_adls.significance.intervals import Interval, paired_interval

# A difference is one where chance alone would show as large a one in fewer than 1 of 20 cases.
LEVEL = 0.05
# Student's distribution of more degrees of freedom is taken for a normal one.
_NORMAL_FROM = 2000


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
    """An accuracy, or another mean over rows, minus that of another model.

    Attributes:
        value: The difference; of accuracies -1 to 1.
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


def paired_means(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the means of what two models have for each row, such as losses, by a paired t-test.

    Student 1908, "The probable error of a mean", Biometrika 6. It is exact where the differences of
    rows are normal, and good where there are many rows and none of them outweighs the others.

    Args:
        first: Of the model, row by row.
        second: Of the model that is subtracted, on the same rows.

    Raises:
        InputValueError: If there are fewer than two rows, or not as many of both.

    Example:
        >>> difference = paired_means([1.0, 2.0, 3.0], [0.0, 1.5, 2.5])
        >>> round(difference.value, 3), round(difference.p_value, 3)
        (0.667, 0.057)
    """
    rows = len(first)
    if rows < 2 or rows != len(second):
        raise InputValueError(
            f"paired_means: first has {rows} rows and second {len(second)}; give both of the same "
            "rows, two or more."
        )
    differences = [a - b for a, b in zip(first, second, strict=True)]
    value = fmean(differences)
    # Not by `statistics`, which takes seconds for the rows of a race.
    error = sqrt(fsum((each - value) ** 2 for each in differences) / (rows - 1) / rows)
    return Difference(value, error, _student(abs(value), error, rows - 1), paired=True)


def _student(value: float, error: float, freedom: int) -> float:
    """Two-sided probability of a mean so many errors from 0: Abramowitz and Stegun 26.7.3, 26.7.4.

    Right to about 1e-12, which is what remains of sums near 1.
    """
    if not error:
        return float(not value)
    if freedom > _NORMAL_FROM:
        return erfc(value / error / sqrt(2))
    angle = atan2(value, error * sqrt(freedom))
    odd = freedom % 2
    term, within = cos(angle) if odd else 1.0, 0.0
    for number in range(2 if odd else 1, freedom, 2):
        within += term
        term *= cos(angle) ** 2 * number / (number + 1)
    within *= sin(angle)
    return max(0.0, 1 - (2 / pi * (angle + within) if odd else within))


def _binomial(fewer: int, tossed: int) -> float:
    """Two-sided probability of so few heads, or tails, of a fair coin."""
    tail = sum(comb(tossed, heads) for heads in range(fewer + 1))
    return min(1.0, tail / 2 ** (tossed - 1)) if tossed else 1.0


def _check(rows: int, accuracy: float) -> None:
    if rows < 1:
        raise InputValueError(f"standard_error: rows={rows} is below 1.")
    if not 0 <= accuracy <= 1:
        raise InputValueError(f"standard_error: accuracy={accuracy} is not in 0..1.")

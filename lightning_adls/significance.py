"""Whether two accuracies differ by more than chance: standard errors and tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, erfc, sqrt

from lightning_adls.errors import InputValueError

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


@dataclass(frozen=True)
class Difference:
    """An accuracy minus another one.

    Attributes:
        value: The difference, -1 to 1.
        standard_error: Of it.
        p_value: Probability of a difference at least as large if both were equally good.
        paired: Whether both were measured on the same rows, and compared row by row.
    """

    value: float
    standard_error: float
    p_value: float
    paired: bool

    @property
    def real(self) -> bool:
        """Whether it is more than chance would often show; see ``LEVEL``."""
        return self.p_value < LEVEL


def unpaired(first: float, second: float, rows: int, other_rows: int | None = None) -> Difference:
    """Compare two accuracies of which only the numbers of rows are known.

    The test is that of Agresti and Caffo (2000, "Simple and effective confidence intervals for
    proportions and differences of proportions", The American Statistician 54): normal, with one
    right and one wrong row added to each, so that no standard error is 0.
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
    z = abs(shares[0][0] - shares[1][0]) / error
    return Difference(value, error, erfc(z / sqrt(2)), paired=False)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two models row by row, by McNemar's exact test on the rows where they disagree.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12.

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
    return Difference(value, error, _binomial(min(gained, lost), gained + lost), paired=True)


def _binomial(fewer: int, tossed: int) -> float:
    """Two-sided probability of so few heads, or tails, of a fair coin."""
    tail = sum(comb(tossed, heads) for heads in range(fewer + 1))
    return min(1.0, tail / 2 ** (tossed - 1)) if tossed else 1.0


def _check(rows: int, accuracy: float) -> None:
    if rows < 1:
        raise InputValueError(f"standard_error: rows={rows} is below 1.")
    if not 0 <= accuracy <= 1:
        raise InputValueError(f"standard_error: accuracy={accuracy} is not in 0..1.")


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

"""Confidence intervals of paired differences, against their definition, print and coverage."""

from collections.abc import Callable
from itertools import product
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_adls.errors import InputValueError
from lightning_adls.significance import paired_interval

Z = 1.959963984540054
Table = tuple[int, int, int, int]
TABLES = st.tuples(*[st.integers(0, 12)] * 4).filter(any)


def rows_of(table: Table) -> tuple[list[bool], list[bool]]:
    """Answers of which so many are right by both, by the first, by the second, and by none."""
    both, one, other, none = table
    first = [True] * (both + one) + [False] * (other + none)
    return first, [True] * both + [False] * one + [True] * other + [False] * none


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Altman et al. 2000, "Statistics with Confidence", table 6.2.
        ((14, 5, 0, 22), 0.011, 0.226),
        # Fagerland, Lydersen, Laake 2014, "Recommended tests and confidence intervals for paired
        # binomial proportions", Statistics in Medicine 33: airway hyper-responsiveness.
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_published_intervals(table: Table, low: float, high: float) -> None:
    assert paired_interval(*rows_of(table)) == pytest.approx((low, high), abs=6e-4)


def bisected(wrong_side: Callable[[float], bool], far: float, near: float) -> float:
    """Where a condition turns, between a point where it holds and one where it does not."""
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if wrong_side(middle) else (far, middle)
    return near


@given(TABLES)
def test_the_score_intervals_of_both_are_put_together_less_their_correlation(table: Table) -> None:
    # The oracle inverts the score test by bisection and asks numpy for the correlation.
    first, second = rows_of(table)
    rows = len(first)
    bounds = []
    for right in (first, second):
        p = sum(right) / rows

        def outside(x: float, p: float = p) -> bool:
            return abs(p - x) > Z * sqrt(x * (1 - x) / rows)

        bounds.append((p, bisected(outside, 0.0, p), bisected(outside, 1.0, p)))
    (p, low, high), (q, other_low, other_high) = bounds
    correlation = 0.0
    if 0 < sum(first) < rows and 0 < sum(second) < rows:
        correlation = float(np.corrcoef(first, second)[0, 1])
        if correlation > 0:
            by_half_a_row = 1 / (2 * rows * float(np.std(first) * np.std(second)))
            correlation = max(0.0, correlation - by_half_a_row)
    down = (p - low) ** 2 - 2 * correlation * (p - low) * (other_high - q) + (other_high - q) ** 2
    up = (q - other_low) ** 2 - 2 * correlation * (q - other_low) * (high - p) + (high - p) ** 2
    expected = (p - q - sqrt(max(0.0, down)), p - q + sqrt(max(0.0, up)))
    assert paired_interval(first, second) == pytest.approx(expected, abs=1e-6)


@given(TABLES)
def test_it_holds_the_difference_turns_with_it_and_stays_within_bounds(table: Table) -> None:
    first, second = rows_of(table)
    low, high = paired_interval(first, second)
    difference = (sum(first) - sum(second)) / len(first)
    assert -1 <= low <= difference <= high <= 1
    assert low < high
    assert paired_interval(second, first) == pytest.approx((-high, -low))


@given(TABLES)
def test_more_confidence_and_fewer_rows_make_it_wider(table: Table) -> None:
    first, second = rows_of(table)
    low, high = paired_interval(first, second)
    lower, higher = paired_interval(first, second, confidence=0.99)
    assert lower <= low
    assert higher >= high
    assume(low > -1 + 1e-9 and high < 1 - 1e-9)
    four_times = paired_interval(first * 4, second * 4)
    assert four_times.high - four_times.low < high - low


# Shares of rows that both, the first, the second and neither get right.
@pytest.mark.parametrize(
    "shares", [(0.7, 0.1, 0.1, 0.1), (0.6, 0.2, 0.1, 0.1), (0.4, 0.3, 0.1, 0.2)]
)
def test_nineteen_of_twenty_intervals_hold_the_true_difference(
    shares: tuple[float, float, float, float],
) -> None:
    rows, true = 30, shares[1] - shares[2]
    held = 0.0
    # Not drawn: every table of 30 rows with its probability.
    for both, one, other in product(range(rows + 1), repeat=3):
        if (none := rows - both - one - other) < 0:
            continue
        ways = comb(rows, both) * comb(rows - both, one) * comb(rows - both - one, other)
        chance = ways * np.prod(np.power(shares, (both, one, other, none)))
        if chance < 1e-6:
            continue
        low, high = paired_interval(*rows_of((both, one, other, none)))
        held += chance * (low <= true <= high)
    assert 0.93 < held < 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_interval([], []), "first has 0 rows and second 0"),
        (lambda: paired_interval([True], [True, False]), "first has 1 rows and second 2"),
        (lambda: paired_interval([True], [True], 1.0), r"confidence=1\.0 is not between 0 and 1"),
    ],
)
def test_what_has_no_interval_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        call()

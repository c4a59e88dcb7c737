"""Standard errors and tests, against simulation and against counting."""

from itertools import product
from math import sqrt

import numpy as np
import pytest

from lightning_adls.significance import (
    Difference,
    paired,
    paired_means,
    standard_error,
    unpaired,
)


def test_the_standard_error_is_the_spread_of_accuracies_on_other_rows() -> None:
    drawn = np.random.default_rng(0).binomial(400, 0.8, size=20_000) / 400
    assert standard_error(0.8, 400) == pytest.approx(drawn.std(), rel=0.02)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_of_equal_models_at_most_one_in_twenty_seems_different(share: float) -> None:
    random = np.random.default_rng(1)
    found = random.binomial(300, share, size=(2000, 2)) / 300
    assert np.mean([unpaired(a, b, 300).real for a, b in found.tolist()]) < 0.06
    right = random.random((500, 2, 200)) < share
    assert np.mean([paired(a.tolist(), b.tolist()).real for a, b in right]) < 0.06


def test_a_large_difference_is_found_and_has_its_sign() -> None:
    better = unpaired(0.9, 0.8, 1000, 500)
    assert better.real
    assert better.value == pytest.approx(0.1)
    assert unpaired(0.8, 0.9, 500, 1000).value == pytest.approx(-0.1)
    assert not unpaired(0.81, 0.80, 500).real


def test_mcnemar_counts_the_rows_on_which_two_models_disagree() -> None:
    # The oracle tosses the coin for each of the rows where one of them is right, all outcomes.
    first = [True] * 7 + [False] + [True] * 20
    second = [False] * 7 + [True] + [True] * 20
    tosses = list(product((0, 1), repeat=8))
    extreme = sum(sum(toss) <= 1 or sum(toss) >= 7 for toss in tosses) / len(tosses)
    found = paired(first, second)
    assert found.p_value == pytest.approx(extreme)
    assert found.value == pytest.approx(6 / 28)
    each = np.array(first, float) - np.array(second, float)
    assert found.standard_error == pytest.approx(each.std() / sqrt(28))


def test_on_the_same_rows_less_is_seen_as_chance() -> None:
    first, second = [True] * 900 + [False] * 100, [True] * 880 + [False] * 120
    assert paired(first, second).real
    assert not unpaired(0.9, 0.88, 1000).real


def test_models_that_answer_alike_do_not_differ() -> None:
    assert paired([True, False], [True, False]) == Difference(0.0, 0.0, 1.0, paired=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: standard_error(0.5, 0), "rows=0 is below 1"),
        (lambda: standard_error(1.5, 9), r"accuracy=1.5 is not in 0\.\.1"),
        (lambda: unpaired(0.5, 0.5, 9, 0), "rows=0"),
        (lambda: paired([True], []), "first has 1 rows and second 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("rows", "t", "p_value"),  # of the tables in Abramowitz and Stegun, 26.10
    [
        (2, 12.706, 0.05),
        (3, 9.925, 0.01),
        (11, 3.169, 0.01),
        (31, 2.750, 0.01),
        (121, 3.373, 0.001),
    ],
)
def test_means_are_compared_by_students_distribution(rows: int, t: float, p_value: float) -> None:
    drawn = np.random.default_rng(rows).normal(size=rows)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1) * sqrt(rows) + t
    other = np.random.default_rng(0).normal(size=rows)
    found = paired_means((drawn + other).tolist(), other.tolist())
    assert found.value == pytest.approx(t)
    assert found.standard_error == pytest.approx(1)
    assert found.p_value == pytest.approx(p_value, rel=2e-3)


def test_of_equal_means_at_most_one_in_twenty_seems_different() -> None:
    random = np.random.default_rng(2)
    for rows in (5, 60, 2500):
        drawn = random.normal(size=(500, 2, rows)).tolist()
        assert np.mean([paired_means(a, b).real for a, b in drawn]) == pytest.approx(0.05, abs=0.03)


def test_means_without_any_spread_and_of_other_rows() -> None:
    assert paired_means([1.0, 2.0], [1.0, 2.0]).p_value == 1
    assert paired_means([1.0, 2.0], [0.5, 1.5]).p_value == 0
    for first, second in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="paired_means: first has"):
            paired_means(first, second)

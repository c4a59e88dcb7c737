"""The exact choice against all choices."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adls.planning.knapsack import choose

Groups = list[list[tuple[int, float]]]

options = st.tuples(st.integers(1, 60), st.floats(0, 10) | st.sampled_from([0.0, 1.0, 1e-9]))
problems = st.lists(st.lists(options, min_size=1, max_size=5), min_size=1, max_size=5)


def split(groups: Groups) -> tuple[list[list[int]], list[list[float]]]:
    return [[c for c, _ in g] for g in groups], [[s for _, s in g] for g in groups]


def total(groups: Groups, chosen: list[int]) -> tuple[int, float]:
    taken = [group[at] for group, at in zip(groups, chosen, strict=True)]
    return sum(c for c, _ in taken), sum(s for _, s in taken)


@settings(max_examples=300)
@given(groups=problems, extra=st.integers(0, 120))
def test_no_choice_within_the_budget_is_better(groups: Groups, extra: int) -> None:
    budget = sum(min(c for c, _ in group) for group in groups) + extra
    everything = [
        total(groups, list(chosen)) for chosen in product(*(range(len(g)) for g in groups))
    ]
    best = min(score for cost, score in everything if cost <= budget)
    cost, score = total(groups, choose(*split(groups), budget))
    assert cost <= budget
    assert score == pytest.approx(best, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(1, 9), min_size=14, max_size=14), st.integers(0, 80))
def test_it_is_exact_where_the_relaxation_says_nothing(sizes: list[int], extra: int) -> None:
    # Each bit is worth the same: which sums of sizes there are is all that counts.
    groups: Groups = [[(size, 100.0 - size), (3 * size, 100.0 - 3 * size)] for size in sizes]
    budget = sum(sizes) + extra
    sums = {0}
    for size in sizes:
        sums |= {2 * size + other for other in sums}
    cost, _ = total(groups, choose(*split(groups), budget))
    assert cost == sum(sizes) + max(s for s in sums if s <= extra)


def test_a_small_score_counts_beside_a_large_one() -> None:
    groups: Groups = [[(1, 1e3)], [(1, 2e-9), (2, 1e-9)], [(1, 3e-9), (2, 1e-9)]]
    assert choose(*split(groups), 4) == [0, 0, 1]
    assert choose(*split(groups), 5) == [0, 1, 1]


def test_of_equal_choices_it_is_always_the_same() -> None:
    groups: Groups = [[(2, 1.0), (2, 1.0), (1, 2.0)]] * 6
    chosen = choose(*split(groups), 9)
    assert chosen == choose(*split(groups), 9)
    assert 1 not in chosen


def test_a_budget_below_the_cheapest_options_is_refused() -> None:
    with pytest.raises(ValueError, match="budget=2 is below 3, the least possible cost"):
        choose([[1, 5], [2]], [[1.0, 0.0], [0.0]], 2)

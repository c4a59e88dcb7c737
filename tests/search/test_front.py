"""Pareto fronts and hypervolumes against brute force."""

from itertools import product

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_adls.search.front import (
    Point,
    front_of,
    hypervolume,
    hypervolumes,
    pareto,
    reference_of,
)

whole = st.integers(0, 6)
points = st.lists(st.tuples(whole, whole), max_size=10)
states = st.sampled_from([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED])


def by_counting(points: list[Point], reference: tuple[int, int]) -> int:
    """Unit squares between the reference and a point, of a grid."""
    most, least = reference
    return sum(
        any(cost <= x and value >= y + 1 for cost, value in points)
        for x, y in product(range(most), range(least, 7))
    )


@given(points, st.tuples(whole, whole))
def test_the_hypervolume_is_the_number_of_unit_squares(
    points: list[Point], reference: tuple[int, int]
) -> None:
    assert hypervolume(points, reference) == by_counting(points, reference)


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 1)), max_size=12))
def test_the_hypervolume_is_that_of_optuna(points: list[Point]) -> None:
    import numpy as np
    from optuna._hypervolume import compute_hypervolume

    reference = (32.0, 0.25)
    inside = [(c, -v) for c, v in points if c <= reference[0] and v >= reference[1]]
    expected = (
        compute_hypervolume(np.array(inside), np.array([reference[0], -reference[1]]))
        if inside
        else 0.0
    )
    assert hypervolume(points, reference) == pytest.approx(expected)


@given(points)
def test_the_front_is_what_no_other_point_outdoes(points: list[Point]) -> None:
    def outdone(point: Point) -> bool:
        return any(
            other != point and other[0] <= point[0] and other[1] >= point[1] for other in points
        )

    assert pareto(points) == sorted({point for point in points if not outdone(point)})


def trials_of(found: list[tuple[Point, TrialState]]) -> list[FrozenTrial]:
    trials = []
    for index, ((cost, value), state) in enumerate(found):
        trial = create_trial(
            state=state,
            value=value,
            user_attrs={"index": index, "bits_per_weight": cost},
        )
        trial.number = index
        trials.append(trial)
    return trials


@given(st.lists(st.tuples(st.tuples(whole, whole), states), max_size=10))
def test_trials_on_the_front_are_complete_and_of_equals_the_first(
    found: list[tuple[Point, TrialState]],
) -> None:
    trials = trials_of(found)
    complete = [point for point, state in found if state == TrialState.COMPLETE]
    front = front_of(trials, "bits_per_weight")
    assert [found[trial.number][0] for trial in front] == pareto(complete)
    for trial in front:
        first = found.index((found[trial.number][0], TrialState.COMPLETE))
        assert trial.number == first


@given(st.lists(st.tuples(st.tuples(whole, whole), states), max_size=10))
def test_hypervolumes_are_those_of_the_trials_so_far_and_never_shrink(
    found: list[tuple[Point, TrialState]],
) -> None:
    trials = trials_of(found)
    reference = reference_of(trials, "bits_per_weight")
    costs = [cost for (cost, _), state in found if state == TrialState.COMPLETE]
    assert reference == (max(costs, default=0.0), 0.0)
    volumes = hypervolumes(trials, "bits_per_weight", reference)
    for n, volume in enumerate(volumes, 1):
        complete = [point for point, state in found[:n] if state == TrialState.COMPLETE]
        assert volume == (hypervolume(complete, reference) if complete else None)
    known = [volume for volume in volumes if volume is not None]
    assert known == sorted(known)


def test_a_trial_whose_cost_is_not_known_is_on_no_front() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(value=1.0, user_attrs={"index": 0}))
    assert front_of(study.trials, "bit_operations") == []

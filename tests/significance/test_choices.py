"""Models that may be called the best, and the cheapest of them."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.errors import InputValueError
from lightning_adls.significance import (
    Measured,
    indistinguishable,
    one_standard_error,
    paired,
    unpaired,
)

ROWS = 200
MODELS = st.lists(st.integers(100, ROWS), min_size=1, max_size=8).map(
    lambda right: {f"m{n}": Measured(each / ROWS, ROWS) for n, each in enumerate(right)}
)
COSTS = st.lists(st.integers(1, 4), min_size=8, max_size=8).map(
    lambda costs: {f"m{n}": float(cost) for n, cost in enumerate(costs)}
)


def answered(right: np.ndarray) -> Measured:
    return Measured(float(right.mean()), len(right), dict(enumerate(right.tolist())))


@given(MODELS)
def test_the_best_is_the_first_of_those_that_no_test_tells_from_it(
    models: dict[str, Measured],
) -> None:
    found = indistinguishable(models)
    best = max(models, key=lambda name: models[name].accuracy)
    assert found[0] == best
    for name, model in models.items():
        told = unpaired(models[best].accuracy, model.accuracy, ROWS).p_value < 0.05
        assert (name in found) != told
    accuracies = [models[name].accuracy for name in found]
    assert accuracies == sorted(accuracies, reverse=True)


@given(MODELS, COSTS)
def test_nothing_cheaper_is_within_one_standard_error(
    models: dict[str, Measured], costs: dict[str, float]
) -> None:
    chosen = one_standard_error(models, costs)
    best = max(model.accuracy for model in models.values())
    within = best - sqrt(best * (1 - best) / ROWS)
    assert models[chosen].accuracy >= within
    for name, model in models.items():
        if model.accuracy >= within:
            assert (costs[chosen], -models[chosen].accuracy) <= (costs[name], -model.accuracy)


def test_answers_row_by_row_tell_what_accuracies_alone_do_not() -> None:
    right = np.arange(1000) < 900
    worse = right.copy()
    worse[:10] = False
    known = {"best": answered(right), "worse": answered(worse)}
    assert paired(right.tolist(), worse.tolist()).real
    assert indistinguishable(known) == ["best"]
    unknown = {**known, "worse": Measured(known["worse"].accuracy, 1000)}
    assert indistinguishable(unknown) == ["best", "worse"]


def test_answers_on_other_rows_are_not_compared_row_by_row() -> None:
    right = np.arange(1000) < 900
    worse = right.copy()
    worse[:10] = False
    elsewhere = dict(enumerate(worse.tolist(), start=1000))
    models = {"best": answered(right), "worse": Measured(0.89, 1000, elsewhere)}
    assert indistinguishable(models) == ["best", "worse"]
    # In which order they are known does not matter.
    backwards = dict(reversed(list(enumerate(worse.tolist()))))
    models["worse"] = Measured(0.89, 1000, backwards)
    assert indistinguishable(models) == ["best"]


def test_what_is_told_from_the_best_is_not_chosen_within_its_standard_error() -> None:
    right = np.arange(1000) < 900
    worse = right.copy()
    worse[:8] = False  # 0.008 less, where the standard error is 0.0095
    models = {"best": answered(right), "worse": answered(worse)}
    assert one_standard_error(models, {"best": 8.0, "worse": 4.0}) == "best"


def test_of_equals_the_first_is_the_best_and_the_cheapest() -> None:
    equal = {name: Measured(0.9, 100) for name in ("b", "a", "c")}
    assert indistinguishable(equal) == ["b", "a", "c"]
    assert one_standard_error(equal, dict.fromkeys(equal, 1.0)) == "b"


def test_equal_models_are_mostly_left() -> None:
    random = np.random.default_rng(0)
    left = [
        len(indistinguishable({str(n): answered(random.random(300) < 0.8) for n in range(2)}))
        for _ in range(400)
    ]
    assert np.mean(np.array(left) == 2) > 0.94


def test_what_cannot_be_chosen_among_is_refused() -> None:
    with pytest.raises(InputValueError, match="indistinguishable: models is empty"):
        indistinguishable({})
    with pytest.raises(InputValueError, match="costs has none of 'a'"):
        one_standard_error({"a": Measured(0.5, 10)}, {"b": 1.0})

"""Which choice decided the values of a search."""

import random

from lightning_adls.search.importances import importances


def test_the_choice_that_decides_is_the_most_important() -> None:
    drawn = random.Random(0)
    trials = []
    for _ in range(60):
        choices = {name: drawn.choice("ab") for name in ("first", "second", "third")}
        value = (choices["second"] == "a") + 0.01 * drawn.random()
        trials.append(({**choices, "same": "x"}, value))
    found = importances(trials)
    assert next(iter(found)) == "second"
    assert found["second"] > 0.8
    assert sum(found.values()) == 1 or abs(sum(found.values()) - 1) < 1e-9
    assert "same" not in found, "it was never another"


def test_few_or_equal_trials_say_nothing() -> None:
    trials = [({"a": str(n)}, float(n)) for n in range(3)]
    assert importances(trials) == {}
    assert importances([({"a": str(n)}, 0.5) for n in range(9)]) == {}
    assert importances([({"a": "x"}, float(n)) for n in range(9)]) == {}


def test_a_choice_may_be_missing_from_some_trials() -> None:
    trials = [
        ({"a": "x" if n % 2 else "y"} | ({"b": str(n % 3)} if n % 2 else {}), n / 20.0)
        for n in range(20)
    ]
    assert set(importances(trials)) == {"a", "b"}

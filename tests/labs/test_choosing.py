"""What is chosen among the rows of a run."""

from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.labs.choosing import best_quantised, choosable, sparsest_within
from lightning_adls.report import Row

SHARES = st.integers(0, 5).map(lambda n: n / 5)
PRUNED = st.lists(st.tuples(SHARES, SHARES))


def rows_of(pruned: list[tuple[float, float]], accuracy: float) -> dict[str, Row]:
    """A quantised model, what was pruned from it, and what was pruned from another one."""
    row = {"accuracy": accuracy, "bits_per_weight": 8.0, "how": "qat"}
    others = {"other": {"pruned_from": "else", "sparsity": 1.0, "accuracy": 1.0}}
    found = {
        f"pruned/{n}": {"pruned_from": "best", "sparsity": sparsity, "accuracy": reached}
        for n, (sparsity, reached) in enumerate(pruned)
    }
    return {"best": row, **others, **found}


@given(pruned=PRUNED, accuracy=SHARES, tolerance=SHARES)
def test_the_sparsest_within_a_tolerance_is_one_of_those_that_are_kept(
    pruned: list[tuple[float, float]], accuracy: float, tolerance: float
) -> None:
    rows = rows_of(pruned, accuracy)
    chosen = sparsest_within(rows, "best", tolerance)
    good = [row for row in rows.values() if row.get("pruned_from") == "best"]
    good = [row for row in good if row["accuracy"] >= accuracy - tolerance]
    assert (chosen is None) == (not good)
    if chosen is not None:
        assert rows[chosen]["sparsity"] == max(row["sparsity"] for row in good)
        assert chosen in list(choosable(rows, "best"))


@given(pruned=PRUNED)
def test_each_model_that_is_kept_is_chosen_at_some_tolerance(
    pruned: list[tuple[float, float]],
) -> None:
    rows = rows_of(pruned, 1.0)
    for step in choosable(rows, "best"):
        # The margin is for the last bit of the difference.
        assert sparsest_within(rows, "best", 1.0 - rows[step]["accuracy"] + 1e-9) == step


def test_the_most_accurate_is_the_best_and_of_equals_that_of_the_fewest_bits() -> None:
    rows: dict[str, Row] = {
        "start": {"accuracy": 0.9, "bits_per_weight": 32.0},
        "ptq/8": {"accuracy": 0.7, "bits_per_weight": 8.0, "how": "ptq"},
        "qat/8": {"accuracy": 0.8, "bits_per_weight": 8.0, "how": "qat"},
        "qat/4": {"accuracy": 0.8, "bits_per_weight": 4.0, "how": "qat"},
    }
    assert best_quantised(rows) == "qat/4"
    assert best_quantised({"start": rows["start"]}) is None

"""What a lab says of its best models."""

from typing import Any

from lightning_adls.labs.best import about_best, in_a_line
from lightning_adls.labs.rows.columns import accuracy

ROWS = 1000


def row(right: int, bits: float) -> dict[str, Any]:
    return {**accuracy("val", right / ROWS, ROWS), "bits_per_weight": bits}


def answers(right: int) -> dict[int, bool]:
    return {n: n < right for n in range(ROWS)}


MODELS = {
    "Full": row(900, 32.0),
    "Integer": row(895, 8.0),
    "MXInt": row(893, 4.25),
    "Binary": row(700, 1.0),
    "Failed": {"val_accuracy": None, "val_standard_error": None, "bits_per_weight": None},
}


def test_the_cheapest_that_no_test_tells_from_the_best_is_named() -> None:
    found = about_best(MODELS, {}, ROWS, "bits_per_weight")
    assert found == {
        "best": "Full",
        "indistinguishable": ["Full", "Integer", "MXInt"],
        "within_one_standard_error": "MXInt",
        "cost": "bits_per_weight",
    }
    assert in_a_line(found, MODELS) == (
        "Best on validation: Full, 0.9000 ± 0.0095; not told from it: Integer, MXInt. "
        "Best within one standard error: MXInt, 4.25 bits per weight."
    )


def test_answers_row_by_row_tell_more_apart() -> None:
    known = {"Full": answers(900), "Integer": answers(895), "MXInt": answers(893)}
    found = about_best(MODELS, known, ROWS, "bits_per_weight")
    # Seven rows of which all went one way are no chance, five are.
    assert found["indistinguishable"] == ["Full", "Integer"]
    assert found["within_one_standard_error"] == "Integer"


def test_without_a_model_there_is_no_best() -> None:
    assert about_best({"Failed": MODELS["Failed"]}, {}, ROWS, "bits_per_weight") == {}


def test_a_single_model_is_told_from_none() -> None:
    alone = {"Full": MODELS["Full"]}
    found = about_best(alone, {}, ROWS, "bits_per_weight")
    assert "not told from it: none. Best within" in in_a_line(found, alone)

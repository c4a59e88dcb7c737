"""Curves of the rows of a run."""

from lightning_adls.labs.curves import by_sparsity, by_width
from lightning_adls.report import Row


def test_each_way_to_quantise_is_a_curve_over_width() -> None:
    rows: dict[str, Row] = {
        "start": {"accuracy": 0.9},
        "qat/8": {"how": "qat", "frac_width": "half", "width": 8, "accuracy": 0.8},
        "ptq/4": {"how": "ptq", "frac_width": "half", "width": 4, "accuracy": 0.5},
        "qat/4": {"how": "qat", "frac_width": "half", "width": 4, "accuracy": 0.6},
    }
    assert by_width(rows) == {"QAT, half": [(4, 0.6), (8, 0.8)], "PTQ, half": [(4, 0.5)]}


def test_each_way_to_prune_one_model_is_a_curve_over_sparsity() -> None:
    def row(source: str, schedule: str, target: float, accuracy: float) -> Row:
        about = {"pruned_from": source, "method": "l1-norm", "schedule": schedule}
        return {**about, "target": target, "accuracy": accuracy}

    rows = {
        "a": row("best", "one_shot", 0.9, 0.6) | {"accuracy_untrained": 0.5},
        "b": row("best", "one_shot", 0.5, 0.8) | {"accuracy_untrained": 0.7},
        "c": row("best", "cubic", 0.5, 0.81),
        "d": row("earlier", "cubic", 0.5, 0.1),
        "e": {"accuracy": 1.0},
    }
    assert by_sparsity(rows, "best") == {
        "l1-norm, one_shot": [(0.5, 0.8), (0.9, 0.6)],
        "l1-norm, not trained again": [(0.5, 0.7), (0.9, 0.5)],
        "l1-norm, cubic": [(0.5, 0.81)],
    }

"""Curves of the rows of Lab 1."""

from math import sqrt
from typing import Any

import pytest

from lightning_adls.figures import Point
from lightning_adls.labs.curves import by_sparsity, by_width
from lightning_adls.labs.rows.columns import chosen, measured
from lightning_adls.labs.rows.steps import LAB1
from lightning_adls.report import Row


def row(accuracy: float, **columns: object) -> Row:
    return chosen({"val_accuracy": accuracy, "val_standard_error": 0.01, **columns}, LAB1)


def test_each_way_to_quantise_is_a_curve_over_width() -> None:
    def quantised(training: str, width: int, accuracy: float) -> Row:
        about = {"method": "quantised", "frac_width": "half", "training": training}
        return row(accuracy, **about, width=width)

    rows = [
        row(0.9, method="float32"),
        quantised("qat", 8, 0.8),
        quantised("none", 4, 0.5),
        quantised("qat", 4, 0.6),
        quantised("retrain", 4, 0.1) | {"method": "random", "source": "a"},
    ]
    assert by_width(rows) == {
        "QAT, half": [Point(4, 0.6, 0.01), Point(8, 0.8, 0.01)],
        "PTQ, half": [Point(4, 0.5, 0.01)],
    }


def test_each_way_to_prune_one_model_is_a_curve_over_sparsity() -> None:
    def pruned(
        source: str, schedule: str, target: float, accuracy: float, untrained: float | None = None
    ) -> Row:
        about: Row = {"source": source, "method": "l1-norm", "schedule": schedule}
        about |= measured("val_accuracy_untrained", untrained, 100)
        return row(accuracy, **about, target_sparsity=target)

    rows = [
        pruned("best", "one_shot", 0.9, 0.6, 0.5),
        pruned("best", "one_shot", 0.5, 0.8, 0.7),
        pruned("best", "cubic", 0.5, 0.81),
        pruned("earlier", "cubic", 0.5, 0.1),
        row(1.0, method="structured", source="best"),
    ]
    untrained: Any = pytest.approx(sqrt(0.7 * 0.3 / 100), abs=1e-6)
    assert by_sparsity(rows, "best") == {
        "l1-norm, one shot": [Point(0.5, 0.8, 0.01), Point(0.9, 0.6, 0.01)],
        "l1-norm, not trained again": [
            Point(0.5, 0.7, untrained),
            Point(0.9, 0.5, 0.05),
        ],
        "l1-norm, cubic": [Point(0.5, 0.81, 0.01)],
    }

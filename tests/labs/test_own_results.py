"""A lab of one's own leaves what figures and reports are made of."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_adls.labs import own_results
from lightning_adls.labs.own_results import write_results
from lightning_adls.labs.stored import StoredRun


def test_steps_of_any_lab_are_read_back_as_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[StoredRun] = []
    monkeypatch.setattr(own_results, "draw", drawn.append)
    model = {"transforms": [], "checkpoint": "a.ckpt", "parameters": 9, "bits_per_weight": 4.0}
    texts = SimpleNamespace(
        row_counts={"train": 10, "val": 100}, class_names=["negative", "positive"]
    )
    steps = {
        "a/1": {**model, "accuracy": 0.8},
        "a/2": {**model, "accuracy": 0.6},
        "calibrated/1": {"recipe": {}},
        "test/a/1": {"accuracy": 0.75, "rows": 400},
    }
    run: Any = SimpleNamespace(
        lab="lab5",
        name="x",
        folder=tmp_path,
        rows=steps,
        seconds={"a/1": 3.0},
        task=SimpleNamespace(texts=texts),
    )
    (tmp_path / "config.yaml").write_text("model: {class_path: a.b}\n")
    write_results(run)
    (stored,) = drawn
    assert (stored.lab, stored.name) == ("lab5", "x")
    assert [(row["step"], row["val_accuracy"], row["test_accuracy"]) for row in stored.rows] == [
        ("a/1", 0.8, 0.75),
        ("a/2", 0.6, None),
    ]
    assert set(stored.results) == {"a/1"}
    assert stored.rows[1]["val_standard_error"] == pytest.approx((0.24 / 100) ** 0.5, abs=1e-6)

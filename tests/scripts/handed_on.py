"""Models of a run are exported, and the files answer as the models did."""

import csv
from pathlib import Path

import pytest

from lightning_adls.commands import export
from lightning_adls.export import Predictor

TEXTS = ["The plot was not dull.", "The music was awful."]


def check(run: str, name: str, val_accuracy: float, *arguments: str) -> None:
    """Export one model, packed and for ONNX, and ask both files.

    Args:
        run: Of the folder that one is in, such as ``lab0/test``.
        name: Of the model.
        val_accuracy: That the run says of it.
        arguments: Of the command; without ``--study`` the model has to be its default.
    """
    export.main([f"--run={run}", *arguments, "--to", "packed", "onnx"])
    folder = Path("lightning_logs", run, "export", name.replace("/", "_"))
    with (folder / "verification.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == ["trained", "packed", "onnx"]
    for row in rows:
        assert float(row["accuracy"]) == pytest.approx(val_accuracy, abs=1e-6)
        assert row["flips"] in ("", "0")
    packed, onnx = (
        [list(each.probabilities.values()) for each in Predictor(folder / file)(TEXTS)]
        for file in ("model.safetensors", "model.onnx")
    )
    for ours, theirs in zip(packed, onnx, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)

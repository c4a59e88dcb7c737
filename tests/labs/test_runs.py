"""What the labs share: settings, training, the table."""

import weakref
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from rich.console import Console

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import runs
from lightning_adls.labs.tables import table
from lightning_adls.ledger import Row
from lightning_adls.transforms import Transform

Build = Callable[[list[Transform]], TextClassifier]
BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")


def test_settings_leave_out_what_may_change_and_know_weights_by_content(tmp_path: Path) -> None:
    weights, moved = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    weights.write_bytes(b"abc")
    moved.write_bytes(b"abc")

    def settings(data: str, weights: Path) -> object:
        text = f"seed: 0\nrun: x\nfinetune: {{epochs: 2}}\ndata: {{{data}}}\nweights: {weights}\n"
        return runs.settings_of(text, passing={"run"}, weights=str(weights))

    kept = settings("cache_dir: x, limit: 3", weights)
    assert kept == settings("num_workers: 2, limit: 3", moved)
    moved.write_bytes(b"abd")
    assert kept != settings("limit: 3", moved)
    assert kept != settings("limit: 4", weights)


def test_training_reports_the_accuracy_of_the_weights_it_leaves(
    build: Build, texts: TextData, tmp_path: Path
) -> None:
    module = build([])
    found = runs.train(module, texts, BUDGET, tmp_path, "some/step", seed=0)
    assert found["accuracy"] == runs.validate(module, texts, BUDGET)
    assert found["seconds"] > 0
    assert list((tmp_path / "some" / "step").glob("events*"))


def test_training_to_nan_is_an_error(build: Build, texts: TextData, tmp_path: Path) -> None:
    module = build([])
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="broken: val/loss is NaN"):
        runs.train(module, texts, BUDGET, tmp_path, "broken", seed=0)


def test_a_fine_tune_is_done_once(build: Build, texts: TextData, tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    first, second = build([]), build([])
    runs.fine_tune(first, texts, BUDGET, tmp_path, 0)
    written = (tmp_path / "start.ckpt").stat().st_mtime_ns
    runs.fine_tune(second, texts, BUDGET, tmp_path, 0)
    assert (tmp_path / "start.ckpt").stat().st_mtime_ns == written
    expected = first.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.state_dict().items())


def test_a_table_shows_missing_values_as_dashes() -> None:
    console = Console(width=80)
    rows: list[Row] = [{"name": "a", "accuracy": 0.51234}, {"name": "b", "accuracy": None}]
    with console.capture() as capture:
        columns = {"name": ("model", ""), "accuracy": ("val acc.", ".2f"), "speedup": ("x", ".1f")}
        console.print(table("Results", rows, columns))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["a", "0.51", "-"] in lines
    assert ["b", "-", "-"] in lines


def test_models_of_earlier_trainings_do_not_stay_in_memory(
    build: Build, texts: TextData, tmp_path: Path
) -> None:
    module = build([])
    reference = weakref.ref(module)
    runs.train(module, texts, BUDGET, tmp_path, "step", seed=0)
    del module
    runs.train(build([]), texts, BUDGET, tmp_path, "next", seed=0)  # the data lets go of the first
    BUDGET.trainer(1)
    assert reference() is None

"""The comparison with MASE's flow as its users run it, on a few reviews."""

import csv
import runpy
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "mase_flow.py"
FEW = ("--reviews", "16", "--validation", "8", "--tokens", "16", "--start-epochs", "0")


@pytest.fixture(autouse=True)
def _as_scripts_are(monkeypatch: pytest.MonkeyPatch, cache_dir: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # where a script finds its neighbours
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_trial_goes_through_each_flow_once_and_is_kept(
    run: Callable[..., int], refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*FEW, "--formats", "Integer", "--folder", "kept")
    assert run(SCRIPT, *arguments) == 0
    assert "MASE's layers: " in capsys.readouterr().out
    rows = rows_of(Path("kept/epochs.csv"))
    flows = [row["flow"] for row in rows]
    assert flows == ["MASE", "MASE, like lengths", "ours float32", "ours bf16"]
    assert [row["layers"] for row in rows][2:] == ["ours", "ours"]
    assert all(float(row["seconds"]) > 0 and 8 * float(row["accuracy"]) % 1 == 0 for row in rows)
    assert run(SCRIPT, *arguments) == 0
    assert rows_of(Path("kept/epochs.csv")) == rows, "nothing is measured twice"
    assert "Integer" in capsys.readouterr().out
    other = refused(SCRIPT, *arguments, "--batch", "4")
    assert "kept" in other
    assert "name another folder" in other


def test_a_study_of_one_recipe_trains_it_in_each_trial_of_mase_and_once_in_ours(
    run: Callable[..., int],
) -> None:
    study = ("--study", "--trials", "2", "--formats", "unquantised", "--folder", "kept")
    assert run(SCRIPT, *FEW, *study) == 0
    rows = rows_of(Path("kept/study.csv"))
    assert [(row["flow"], row["turn"], row["state"]) for row in rows] == [
        ("MASE", "0", ""),
        ("ours float32", "0", "complete"),
        ("MASE", "1", ""),
    ]


def test_nothing_begins_when_the_minutes_are_over(run: Callable[..., int]) -> None:
    assert run(SCRIPT, *FEW, "--formats", "Log", "--folder", "kept", "--minutes", "0") == 0
    assert not Path("kept/epochs.csv").exists()


def test_both_flows_start_from_the_same_weights_and_see_the_same_rows() -> None:
    given = Namespace(
        data="reviews",
        tokenizer=None,
        checkpoint=None,
        weights=None,
        tokens=16,
        batch=8,
        reviews=16,
        validation=8,
        learning_rate=1e-3,
        start_epochs=0,
        seed=3,
    )
    comparison: Any = runpy.run_path(str(BENCHMARKS / "mase_trials.py"))["Comparison"](given)
    for part, loader in {
        "train": comparison.texts.train_dataloader(),
        "val": comparison.texts.val_dataloader(),
    }.items():
        ours = [row for batch in loader for row in batch["input_ids"]]
        theirs = comparison.padded(comparison.rows[part])["input_ids"]
        assert len(ours) == len(theirs) == {"train": 16, "val": 8}[part]
        for mine, row in zip(ours, theirs, strict=True):
            width = min(len(mine), len(row))
            assert torch.equal(mine[:width], row[:width])
    batch = comparison.padded(comparison.rows["val"])
    module, base = comparison.task.build().eval(), comparison.base.eval()
    with torch.no_grad():
        logits = base(batch["input_ids"], batch["attention_mask"]).logits
        assert torch.equal(logits, module.logits(batch))

"""Lab 0 as its users run it, on the built-in data."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import handed_on
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
LAB0 = ROOT / "scripts" / "lab0_finetune.py"
TRAIN = ROOT / "scripts" / "train.py"
DIMENSIONS = ("hidden_size=16", "num_hidden_layers=1", "intermediate_size=32")
DATA = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
]
SMALL = [
    *DATA,
    *(f"--model.{dimension}" for dimension in DIMENSIONS),
    *("--pretraining.epochs=1", "--budget.epochs=1", "--budget.reports=2"),
    *("--lora_budget.epochs=1", "--lora_budget.reports=2", "--lora.rank=4", "--run=test"),
]
ABOUT = (
    *("lab", "run", "command", "commit", "environment", "versions", "rows", "classes"),
    "total_seconds",
)
FOLDER = Path("lightning_logs", "lab0", "test")

Run = Callable[..., int]
Rows = dict[str, dict[str, str]]


@pytest.fixture
def run(run: Callable[..., int], cache_dir: str) -> Run:
    """Run a script in an empty folder, on texts that are tokenised once."""
    return lambda script, *arguments: run(script, *arguments, f"--data.cache_dir={cache_dir}")


def rows(folder: Path) -> Rows:
    with (folder / "results.csv").open() as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def steps_done(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / "run.json"
    return dict(json.loads(path.read_text())["steps"]) if path.exists() else {}


def test_lab0_writes_all_its_results_and_a_second_call_trains_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB0, *SMALL) == 0
    found = rows(FOLDER)
    assert list(found) == ["start", "full", "lora", "merged"]
    assert all(0 <= float(row["val_accuracy"]) <= 1 for row in found.values())
    assert [bool(row["test_accuracy"]) for row in found.values()] == [False, True, False, True]
    assert found["merged"]["val_accuracy"] == found["lora"]["val_accuracy"]
    summary = json.loads((FOLDER / "summary.json").read_text())
    assert set(summary) == {*ABOUT, "model", "results"}
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["rows"] == {"train": 64, "val": 64, "test": 64}
    assert summary["total_seconds"] > 0
    assert summary["results"]["merged"]["largest_difference"] < 1e-4
    assert (FOLDER / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("start", "full", "lora"):
        assert list(FOLDER.glob(f"trials/{name}/events*")), name
        assert name == "start" or list(FOLDER.glob(f"overview/{name}/events*")), name
    printed = capsys.readouterr().out
    assert "MFLOPs for 24 tokens" in printed
    assert "Largest difference of a logit" in printed

    written = {path: path.stat().st_mtime_ns for path in FOLDER.glob("checkpoints/*.ckpt")}
    assert {path.stem for path in written} == {"start", "full", "lora", "merged"}
    assert run(LAB0, *SMALL) == 0
    assert rows(FOLDER) == found
    assert {path: path.stat().st_mtime_ns for path in FOLDER.glob("checkpoints/*.ckpt")} == written
    assert "lora: done already" in capsys.readouterr().out

    accuracies = {name: row["val_accuracy"] for name, row in summary["results"].items()}
    best = max(("full", "merged"), key=lambda name: float(accuracies[name]))
    handed_on.check("lab0/test", best, accuracies[best])
    for name in {"full", "merged"} - {best}:
        handed_on.check("lab0/test", name, accuracies[name], f"--study={name}")


@pytest.mark.long
def test_lab0_trains_what_it_says(run: Run) -> None:
    assert run(LAB0, *SMALL, "--frozen=['bert.embeddings.*']") == 0
    state = {
        name: torch.load(FOLDER / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("start", "full", "lora", "merged")
    }
    start, full, lora, merged = state.values()
    assert list(full) == list(merged) == list(start)
    changed = {name for name in start if not torch.equal(full[name], start[name])}
    assert {n.split(".")[2] for n in changed if "classifier" not in n} == {"encoder", "pooler"}
    for name, value in start.items():
        layer, _, entry = name.rpartition(".")
        base = f"{layer}.base_layer.{entry}"
        head = "pooler" in name or "classifier" in name
        if base in lora:
            assert torch.equal(lora[base], value), name
            assert torch.equal(merged[name], value) == (entry == "bias"), name
        elif not head:
            assert torch.equal(merged[name], value), name
    trainable = sum(
        value.numel()
        for name, value in lora.items()
        if "lora_" in name or "pooler" in name or "classifier" in name
    )
    found = rows(FOLDER)
    assert int(found["lora"]["trainable"]) == trainable
    assert int(found["lora"]["parameters"]) == sum(
        value.numel() for name, value in lora.items() if not name.endswith("adapter_record")
    )
    embeddings = sum(value.numel() for name, value in start.items() if ".embeddings." in name)
    assert int(found["full"]["parameters"]) - int(found["full"]["trainable"]) == embeddings


@pytest.mark.long
def test_lab0_checkpoints_are_read_by_train(run: Run) -> None:
    assert run(LAB0, *SMALL) == 0
    model = [f"--model.model.init_args.{dimension}" for dimension in DIMENSIONS]
    for name in ("full", "merged"):
        weights = f"--weights={FOLDER / 'checkpoints' / name}.ckpt"
        options = [*DATA, *model, "--trainer.accelerator=cpu"]
        assert run(TRAIN, "validate", *options, weights) == 0


@pytest.mark.long
def test_lab0_config_yaml_repeats_the_run(run: Run) -> None:
    assert run(LAB0, *SMALL) == 0
    assert run(LAB0, f"--config={FOLDER / 'config.yaml'}", "--run=again") == 0
    first, again = rows(FOLDER), rows(FOLDER.parent / "again")
    for found in (*first.values(), *again.values()):
        del found["seconds"]
    assert again == first


@pytest.mark.long
def test_lab0_without_pretraining_starts_from_the_model_as_it_is(run: Run) -> None:
    assert run(LAB0, *SMALL, "--pretraining=null") == 0
    assert not (FOLDER / "trials" / "start").exists()
    assert list(rows(FOLDER)) == ["start", "full", "lora", "merged"]


@pytest.mark.long
def test_lab0_killed_in_the_middle_ends_where_an_uninterrupted_run_ends(
    run: Run, cache_dir: str
) -> None:
    # Long enough to be killed while it trains the adapters.
    arguments = [*SMALL, "--lora_budget.epochs=20"]
    assert run(LAB0, *arguments, "--run=whole") == 0
    command = [sys.executable, str(LAB0), *arguments, f"--data.cache_dir={cache_dir}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while "full" not in steps_done(FOLDER):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = steps_done(FOLDER)
    assert list(before) == ["start", "full"]
    assert run(LAB0, *arguments) == 0
    after = steps_done(FOLDER)
    assert {name: after[name] for name in before} == before  # the seconds too: not trained again
    whole = steps_done(FOLDER.parent / "whole")
    for step in (*after.values(), *whole.values()):
        step.pop("seconds", None)
    assert after == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora.rank=0"], "LoRA: rank=0 is below 1"),
        (["--lora.dropout=1"], "LoRA: dropout=1.0 is not in"),
        (["--lora.alpha=-1"], "LoRA: alpha=-1.0 is not above 0"),
        (["--lora.layers=[]"], "leaves no layer to adapt"),
        (["--lora.layers=['encodr.*']"], "pattern 'encodr.*' matches none of the 8"),
        (["--lora.trainable=['hed.*']"], "pattern 'hed.*' matches none"),
        (["--lora.rnk=3"], "rnk"),
        (["--frozen=['embeddings.*']"], "pattern 'embeddings.*' matches none"),
        (["--frozen=['*']"], "leave no parameter to train"),
        (["--budget.epochs=1.5"], "epochs=1.5 is neither"),
        (["--lora_budget.precision=int3"], "precision='int3'"),
        (["--lora_budget.accelerator=abacus"], "abacus"),
        (["--pretraining.reports=0"], "reports=0 is below 1"),
        (["--classifier.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--lora_classifier.learning_rate=0"], "learning_rate=0.0 is not above 0"),
        (["--model.num_attention_heads=3"], "no multiple of num_attention_heads=3"),
        (["--data.max_length=65"], "max_length=65 is above the 64 positions"),
        (["--data.dataset=nothing.csv", "--data.tokenizer=x"], "nothing.csv"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--modle.hidden_size=3"], "did you mean --model?"),
    ],
)
def test_lab0_refuses_wrong_input_in_one_line_before_any_training(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused(LAB0, *SMALL, *arguments)


def test_lab0_without_peft_says_how_to_install_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    error = refused(LAB0, *SMALL)
    assert "LoRA: PEFT is not installed; run pip install 'peft>=0.18'" in error


@pytest.mark.long
def test_lab0_refuses_to_continue_with_other_settings(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB0, *SMALL) == 0
    assert run(LAB0, *SMALL, "--lora.rank=2") == 2
    assert "lora.rank: 4 → 2" in capsys.readouterr().err


def test_lab0_fails_where_merging_changes_the_logits(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab0 = import_module("lightning_adls.commands.lab0")

    def drop(model: torch.nn.Module) -> float:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
        return original(model)

    original: Callable[[torch.nn.Module], float] = lab0.merge_lora
    monkeypatch.setattr(lab0, "merge_lora", drop)
    with pytest.raises(ArithmeticError, match="merging changed a logit"):
        run(LAB0, *SMALL, "--lora_budget.epochs=8", "--lora_classifier.learning_rate=0.01")
    assert "merged" not in steps_done(FOLDER)


def test_every_lab0_config_names_only_what_there_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(ROOT.glob("configs/lab0_*.yaml")):
        content = yaml.safe_load(path.read_text())
        # Without what needs the hub.
        for key in ("dataset", "tokenizer"):
            content["data"].pop(key, None)
        content["model"] = {}
        copied = tmp_path / path.name
        copied.write_text(yaml.safe_dump(content))
        assert run(LAB0, f"--config={copied}", *SMALL[:-1], "--frozen=['*']") == 2, path
        assert "leave no parameter to train" in capsys.readouterr().err, path

"""scripts/export.py and scripts/predict.py as their users run them."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_adls.commands.predict import lines_of
from lightning_adls.commands.table import COMMANDS
from lightning_adls.export import describe
from lightning_adls.labs.exporting import FILES

SCRIPTS = Path(__file__).parents[2] / "scripts"
EXPORT, PREDICT = SCRIPTS / "export.py", SCRIPTS / "predict.py"
TRAIN = SCRIPTS / "train.py"
# A few reviews and a small network.
TINY = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
    *("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"),
    *("--model.model.hidden_size=16", "--model.model.num_hidden_layers=1"),
]

Run = Callable[..., int]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_checkpoint_is_exported_and_the_files_predict_what_it_predicts(
    run: Run, cache_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = "Integer(width=8, frac_width=5)"
    recipe.write_text(f"quantize: {{'*': {{input: '{text}', weight: '{text}'}}}}")
    fitted = [*TINY, f"--data.cache_dir={cache_dir}", f"--recipe={recipe}", "--run=a"]
    assert run(TRAIN, "fit", *fitted) == 0
    assert run(TRAIN, "predict", *fitted, "--ckpt_path=best") == 0
    folder = tmp_path / "lightning_logs" / "train" / "a"
    expected = table(folder / "predictions.csv")
    capsys.readouterr()

    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert run(EXPORT, f"--checkpoint={checkpoint}", "--to", "packed", "onnx", "--split=test") == 0
    exported = folder / "export" / "best"
    printed = capsys.readouterr().out
    for name in ("model.safetensors", "model.onnx"):
        assert str(exported / name) in printed.replace("\n", "")
    trained, packed, onnx = table(exported / "verification.csv")
    right = sum(row["label"] == row["predicted"] for row in expected) / len(expected)
    for row in (trained, packed, onnx):
        assert float(row["accuracy"]) == pytest.approx(right)
        assert (row["split"], row["rows"]) == ("test", "64")
    assert (packed["largest_difference"], packed["flips"]) == ("0.0", "0")
    assert float(onnx["largest_difference"]) < 1e-5
    assert int(packed["bytes"]) == (exported / "model.safetensors").stat().st_size
    described = describe(exported / "model.safetensors")
    assert described["labels"] == ("negative", "positive")
    assert 0 <= described["facts"]["val_accuracy"] <= 1
    assert described["facts"]["text"]["max_length"] == 24

    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{row['text']}\n" for row in expected))
    for name in ("model.safetensors", "model.onnx"):
        assert run(PREDICT, str(exported / name), "--file", str(texts), "--json") == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [each["label"] for each in found] == [row["predicted"] for row in expected]
        for each, row in zip(found, expected, strict=True):
            likelihood = float(row["probability_positive"])
            assert each["probabilities"]["positive"] == pytest.approx(likelihood, abs=1e-5)

    # A fresh process, elsewhere, with nothing of the run, no cache and no network.
    shutil.copytree(exported, tmp_path / "elsewhere")
    shutil.rmtree(folder)
    environment = {
        "PYTHONPATH": str(SCRIPTS.parent),
        "HOME": str(tmp_path / "nobody"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(PREDICT), str(tmp_path / "elsewhere" / "model.safetensors")]
    done = subprocess.run(
        [*command, expected[0]["text"]], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    label, probability, said = done.stdout.rstrip("\n").split("\t")
    assert (label, said) == (expected[0]["predicted"], expected[0]["text"])
    assert float(probability) >= 0.5
    assert not (tmp_path / "nobody" / ".cache" / "lightning_adls").exists()


def test_lines_of_the_standard_input_are_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = io.BytesIO("Dull.\nÜberraschend!".encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    assert lines_of(None) == ["Dull.", "Überraschend!"]


@pytest.fixture
def runs(tmp_path: Path) -> None:
    """Runs of which nothing was kept but rows."""
    results = {"MXInt": {"val_accuracy": 0.8, "best_checkpoint": None}}
    for name, summary in (
        ("lab4/test", {"lab": "lab4", "results": {"eager": {}}}),
        ("lab0/begun", {"lab": "lab0", "results": {"start": {"val_accuracy": 0.5}}}),
        ("lab3/test", {"lab": "lab3", "results": results, "best": {"best": "MXInt"}}),
        ("lab1/begun", {"lab": "lab1"}),
    ):
        folder = tmp_path / "lightning_logs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "results.csv").write_text("val_accuracy\n0.8\n")
        (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run=lab3/tset"], "is no folder; did you mean lab3/test?"),
        (["--run=lab3/test", "--study=mxint"], "study='mxint' is none of run="),
        (["--run=lab3/test", "--study=MXInt"], "has nothing to export"),
        (["--run=lab3/test", "--to=onx"], "to='onx' is none of packed, onnx, program"),
        (["--run=lab4/test"], "one of lab4, which leaves no models"),
        (["--run=lab0/begun"], "has no model that was trained"),
        (["--run=lab1/begun"], "is not finished: it has no summary.json"),
        (["--checkpoint=a.ckpt"], "checkpoint='a.ckpt' is not there"),
        (["--checkpoint=lightning_logs/lab3/test/config.yaml"], "there is no config.yaml in"),
        (["--checkpoint=a.ckpt", "--study=a"], "study= is for a --run"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    arguments: list[str], said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(EXPORT, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.safetensors", "a"], "there is no file 'missing.safetensors'"),
        (["model.txt", "a"], "neither a packed file"),
        (["model.onnx", "a", "--file=b.txt"], "texts and --file are given"),
    ],
)
def test_what_cannot_predict_is_said_in_one_line(
    arguments: list[str], said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(PREDICT, *arguments)


@pytest.mark.parametrize("name", ["export", "predict"])
def test_help_needs_no_torch(name: str) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        f"try:\n    runpy.run_path({str(SCRIPTS / f'{name}.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{name}.py" in done.stdout
    assert name in COMMANDS


def test_help_names_every_target(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(EXPORT, "--help") == 0
    printed = capsys.readouterr().out
    assert [target for target in FILES if target not in printed] == []

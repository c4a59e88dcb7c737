"""The scripts as their users run them, on the built-in data."""

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAB3 = ROOT / "scripts" / "lab3_mixed_precision.py"
TRAIN = ROOT / "scripts" / "train.py"
# A BERT of one narrow layer on a few reviews.
SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--data.cache_dir=cache"),
]
SMALL_LAB3 = [
    *SMALL,
    *("--model.hidden_size=16", "--model.num_hidden_layers=1", "--model.intermediate_size=32"),
    *("--finetune.epochs=1", "--finetune.reports=1", "--budget.epochs=1", "--budget.reports=2"),
    *("--run=test", "--trials=3"),
]

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script in an empty folder; returns its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(script: Path, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_lab3_writes_all_its_results_and_a_second_call_runs_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = "--only=[Full, Integer, Mixed]"
    assert run(LAB3, *SMALL_LAB3, only) == 0
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert [(row["study"], row["trial"]) for row in rows(folder)] == [
        ("Full", "1"),
        *(("Integer", n) for n in "123"),
        *(("Mixed", n) for n in "123"),
    ]
    assert json.loads(rows(folder)[1]["recipe"])
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {"Full", "Integer", "Mixed"}
    for found in summary.values():
        assert 0 <= found["test_accuracy"] <= 1
        assert (folder / found["best_recipe"]).is_file()
        assert (folder / found["best_checkpoint"]).is_file()
    for name in ("running_best.png", "task1_integer.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert list(folder.glob("running_best/Integer/events*"))
    trials = {path.parent.name for path in folder.glob("Integer/trials/*/events*")}
    assert trials == {"trial-000", "trial-001", "trial-002"}
    printed = capsys.readouterr().out
    assert "Best of each study" in printed
    assert "Integer 3/3" in printed

    created = b'"op_code":4'  # Optuna's code for a new trial
    before = (folder / "search.journal").read_bytes().count(created)
    assert before == 7
    assert run(LAB3, *SMALL_LAB3, only) == 0
    assert (folder / "search.journal").read_bytes().count(created) == before
    assert "complete already" in capsys.readouterr().out


def test_lab3_config_yaml_repeats_the_run(run: Run, tmp_path: Path) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=2") == 0
    logs = tmp_path / "lightning_logs" / "lab3"
    assert run(LAB3, f"--config={logs / 'test' / 'config.yaml'}", "--run=again") == 0
    assert rows(logs / "again") == rows(logs / "test")


def test_lab3_more_trials_continue_a_run(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=2") == 0
    first = rows(folder)
    assert run(LAB3, *SMALL_LAB3, "--only=[Integer]", "--trials=3") == 0
    assert rows(folder)[:2] == first
    assert len(rows(folder)) == 3


def test_lab3_without_training_only_evaluates(run: Run, tmp_path: Path) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--train=false") == 0
    assert len(rows(tmp_path / "lightning_logs" / "lab3" / "test")) == 3


def test_lab3_shares_one_choice_and_enumerates_it_on_a_grid(run: Run, tmp_path: Path) -> None:
    grid = ["--share=true", "--sampler=grid", "--trials=50", "--train=false"]
    studies = ["--studies={Ternary: [Ternary]}", "--figures={ternary: [Ternary]}"]
    assert run(LAB3, *SMALL_LAB3, *grid, *studies) == 0
    assert len(rows(tmp_path / "lightning_logs" / "lab3" / "test")) == 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_lab3_stopped_in_the_middle_loses_no_finished_trial(tmp_path: Path, how: int) -> None:
    command = [sys.executable, str(LAB3), *SMALL_LAB3, "--only=[Integer]", "--trials=40"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs, and so perhaps these tests, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = tmp_path / "lightning_logs" / "lab3" / "test"
    deadline = time.monotonic() + 120
    while not (folder / "results.csv").is_file() or len(rows(folder)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate()
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert process.returncode == expected[how]  # type: ignore[index]
    finished = rows(folder)
    assert 2 <= len(finished) < 40
    command[-1] = f"--trials={len(finished) + 1}"
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    # One more trial than the file shows may have ended before the signal came.
    assert rows(folder)[: len(finished)] == finished
    assert len(rows(folder)) == len(finished) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--precisions={A: Intger}", "--studies={A: [A]}", "--figures={a: [A]}"],
            "did you mean Integer",
        ),
        (["--ranges={widht: [8]}"], "'widht' is no parameter of any format"),
        (["--ranges={width: [99]}"], "no combination of the ranges makes a Integer"),
        (["--ranges={width: 8}"], "Expected a <class 'list'>"),
        (["--studies={A: [Intger]}"], "'A' names 'Intger', which is no precision"),
        (["--only=[Intger]"], "'only' names 'Intger', which is no study"),
        (["--layers=[encodr.*]"], "pattern 'encodr.*' matches none of the 8 layers"),
        (["--sampler=cmaes"], "'tpe', 'random', 'grid'"),
        (["--sampler=grid"], "use 'random' or 'tpe'"),
        (["--trials=0"], "trials=0 is below 1"),
        (["--prune_after=101"], "prune_after=101 is not in 0..100"),
        (["--budget.epochs=1.5"], "epochs=1.5 is neither"),
        (["--classifier.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--model.num_attention_heads=3"], "no multiple of num_attention_heads=3"),
        (["--data.max_length=65"], "max_length=65 is above the 64 positions"),
        (["--data.dataset=nothing.csv", "--data.tokenizer=x"], "nothing.csv"),
        (["--data.label=stars"], "stars"),
        (["--weights=missing.ckpt"], "missing.ckpt"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--modle.hidden_size=3"], "modle.hidden_size"),
        (["--budget.precision=int3"], "precision='int3'"),
        (["--budget.accelerator=abacus"], "abacus"),
    ],
)
def test_lab3_refuses_wrong_input_in_one_line_before_any_training(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(LAB3, *SMALL_LAB3, *arguments) == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in printed.err
    assert not list(tmp_path.glob("lightning_logs/**/*.ckpt"))


def test_scripts_read_a_data_set_from_its_own_file(run: Run) -> None:
    data = f"--data={ROOT / 'configs' / 'data' / 'reviews.yaml'}"
    assert run(LAB3, data, *SMALL_LAB3, "--only=[Full]") == 0
    assert run(TRAIN, "fit", data, *SMALL_TRAIN) == 0


def test_lab3_refuses_to_continue_a_changed_search(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--trials=1") == 0
    assert run(LAB3, *SMALL_LAB3, "--only=[MXInt]", "--trials=1", "--seed=1") == 2
    assert "seed was 0, now 1" in capsys.readouterr().err


def test_every_lab3_config_is_read_and_its_spaces_are_built(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(ROOT.glob("configs/lab3_*.yaml")):
        content = yaml.safe_load(path.read_text())
        # Only what does not need the hub; the last argument stops it before any training.
        spaces = {k: v for k, v in content.items() if k in ("ranges", "precisions", "studies")}
        arguments = [f"--{key}={json.dumps(value)}" for key, value in spaces.items()]
        assert run(LAB3, *SMALL_LAB3, *arguments, "--weights=missing.ckpt") == 2, path
        assert "missing.ckpt" in capsys.readouterr().err, path


SMALL_TRAIN = [*SMALL, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]


def test_train_fits_tests_and_predicts_from_its_checkpoint(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(TRAIN, "fit", *SMALL_TRAIN) == 0
    assert "full precision" in capsys.readouterr().out
    (best,) = tmp_path.glob("lightning_logs/train/version_0/checkpoints/best.ckpt")
    assert (best.parent.parent / "config.yaml").is_file()
    assert run(TRAIN, "test", *SMALL_TRAIN, f"--ckpt_path={best}") == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert run(TRAIN, "predict", *SMALL_TRAIN, f"--ckpt_path={best}") == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("quantize: {'*': MXInt(width=4)}")
    quantised = [f"--recipe={recipe}", f"--weights={best}"]
    assert run(TRAIN, "fit", *SMALL_TRAIN, *quantised) == 0
    assert "MXInt(width=4, block_size=32)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.learning_rate=x"], "learning_rate"),
        (["--model.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--data.dataset=nothing.csv", "--data.tokenizer=x"], "nothing.csv"),
        (["--recipe=missing.yaml"], "missing.yaml"),
        (["--weights=missing.ckpt"], "missing.ckpt"),
        (["--data.max_length=600"], "max_length=600 is above the 64 positions"),
    ],
)
def test_train_refuses_wrong_input_in_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(TRAIN, "fit", *SMALL_TRAIN, *arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize("script", [LAB3, TRAIN])
def test_help_waits_for_nothing_but_lightning(script: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = [{str(script)!r}, '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('datasets' in sys.modules or 'transformers.models.bert' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout

"""Lab 1 as its users run it."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import made_again
import pytest

from lightning_adls.transforms import Quantize

ROOT = Path(__file__).parents[2]
LAB1 = ROOT / "scripts" / "lab1_compression.py"
# A BERT of one narrow layer on a few reviews.
SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
    *("--model.hidden_size=16", "--model.num_hidden_layers=1", "--model.intermediate_size=32"),
    *("--finetune.epochs=1", "--finetune.reports=1", "--qat.epochs=1", "--retrain.epochs=1"),
    *("--widths=[4,8]", "--sparsities=[0.5]", "--structured=[]", "--calibration_batches=2"),
    "--run=test",
]
FOLDER = Path("lightning_logs", "lab1", "test")

Run = Callable[..., int]


@pytest.fixture
def run(run: Callable[..., int], cache_dir: str) -> Run:
    """Run a script in an empty folder, on texts that are tokenised once."""
    return lambda script, *arguments: run(script, *arguments, f"--data.cache_dir={cache_dir}")


def rows() -> dict[str, dict[str, str]]:
    with (FOLDER / "results.csv").open() as file:
        return {row["step"]: row for row in csv.DictReader(file)}


def test_lab1_writes_all_its_results_and_a_second_call_runs_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LAB1, *SMALL, "--structured=[0.5]", "--tolerance=0.5") == 0
    found = rows()
    widths = [
        f"{how}/{frac_width}/{width}"
        for frac_width in ("half", "mse-8")
        for width in (4, 8)
        for how in ("ptq", "qat")
    ]
    widths = [name.replace("mse-8", "mse-2") for name in widths]
    learned = ["qat/learned/4", "qat/learned/8"]
    assert [*found][:12] == ["float32/start", "float32/trained", *widths, *learned]
    for method in ("random", "l1-norm"):
        for schedule in ("one_shot", "cubic"):
            (name,) = (n for n in found if n.startswith(f"pruned/{method}/{schedule}/0.5/"))
            assert float(found[name]["sparsity"]) == pytest.approx(0.5, abs=1e-3)
            assert (found[name]["val_accuracy_untrained"] != "") == (schedule == "one_shot")
            about = [found[name][key] for key in ("method", "schedule", "training")]
            assert about == [method, schedule, "retrain"]
            source = found[found[name]["source"]]
            assert [source["width"], source["method"]] == [found[name]["width"], "quantised"]
    (removed,) = (n for n in found if n.startswith("removed/0.5/"))
    assert int(found[removed]["parameters"]) < int(found["qat/half/8"]["parameters"])
    assert float(found[removed]["speedup"]) > 0
    assert (found[removed]["method"], found[removed]["removed_share"]) == ("structured", "0.5")
    assert {row["training"] for row in found.values()} == {"finetune", "none", "qat", "retrain"}
    assert found["ptq/mse-2/8"]["observer"] == "mse"
    for step, row in found.items():
        assert (row["flips"] == "") == (step == "float32/start")
        if row["flips"]:
            gained = int(row["wrong_to_right"]) - int(row["right_to_wrong"])
            change = float(row["val_accuracy"]) - float(found["float32/start"]["val_accuracy"])
            assert gained == pytest.approx(change * 64, abs=1e-3)
            assert int(row["flips"]) >= abs(gained)
    best = json.loads((FOLDER / "summary.json").read_text())["best"]
    assert best["within_one_standard_error"] in best["indistinguishable"]
    assert found[best["best"]]["method"] == "quantised"
    assert best["best"] == best["indistinguishable"][0]
    summary = json.loads((FOLDER / "summary.json").read_text())["results"]
    assert best["best"] == summary["quantised"]["step"]
    assert [*summary] == ["float32", "quantised", "sparse"]
    for entry in summary.values():
        assert 0 <= entry["test_accuracy"] <= 1
    kept = {str(p.relative_to(FOLDER)) for p in FOLDER.glob("checkpoints/*.ckpt")}
    assert {entry["checkpoint"] for entry in summary.values()} <= kept
    Quantize.load(FOLDER / "quantised_recipe.yaml")
    for name in ("widths.png", "sparsities.png"):
        assert (FOLDER / name).read_bytes().startswith(b"\x89PNG")
    assert list(FOLDER.glob("overview/QAT, half/events*"))
    assert "Chosen on the validation split" in capsys.readouterr().out

    made_again.check(FOLDER)
    steps = (FOLDER / "run.json").stat().st_mtime_ns
    assert run(LAB1, *SMALL, "--structured=[0.5]", "--tolerance=0.5") == 0
    assert (FOLDER / "run.json").stat().st_mtime_ns == steps


@pytest.mark.long
def test_lab1_more_widths_and_sparsities_continue_a_run(run: Run) -> None:
    few = ["--frac_widths=[half]", "--methods=[random]", "--schedules=[one_shot]"]
    assert run(LAB1, *SMALL, *few, "--widths=[8]") == 0
    first = rows()
    assert run(LAB1, *SMALL, *few, "--widths=[8,6]", "--sparsities=[0.5,0.9]") == 0
    assert {name: row for name, row in rows().items() if name in first} == first
    assert {"ptq/half/6", "qat/half/6"} <= set(rows())


@pytest.mark.long
def test_lab1_repeats_bit_for_bit_also_on_two_workers(run: Run) -> None:
    few = ["--frac_widths=[calibrated]", "--methods=[l1-norm]", "--widths=[4]"]
    assert run(LAB1, *SMALL, *few) == 0
    first = rows()
    assert run(LAB1, f"--config={FOLDER / 'config.yaml'}", "--run=again", "--workers=2") == 0
    with Path("lightning_logs/lab1/again/results.csv").open() as file:
        again = {row["step"]: {**row, "seconds": ""} for row in csv.DictReader(file)}
    expected = {step: {**row, "seconds": ""} for step, row in first.items()}
    assert list(again.items()) == list(expected.items())


@pytest.mark.long
def test_lab1_killed_in_the_middle_loses_no_finished_step(run: Run, cache_dir: str) -> None:
    command = [sys.executable, str(LAB1), *SMALL, f"--data.cache_dir={cache_dir}"]
    command += ["--widths=[4,5,6,7,8,9,10,11,12]"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    path = FOLDER / "run.json"
    deadline = time.monotonic() + 120
    while not path.is_file() or len(json.loads(path.read_text())["steps"]) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = json.loads(path.read_text())["steps"]
    few = ["--widths=[4]", "--frac_widths=[half]", "--methods=[random]"]
    assert run(LAB1, *SMALL, *few) == 0
    after = json.loads(path.read_text())["steps"]
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths=[1]"], "width=1"),
        (["--widths=[33]"], "width=33"),
        (["--widths=[]"], "widths is empty"),
        (["--widths=[a]"], "widths"),
        (["--frac_widths=[third]"], "'half', 'calibrated', 'learned'"),
        (["--sparsities=[1.0]"], "sparsities: 1.0 is not between 0 and 1"),
        (["--structured=[0]"], "structured: 0"),
        (["--methods=[l2]"], "'random', 'l1-norm'"),
        (["--schedules=[linear]"], "'one_shot', 'cubic'"),
        (["--scope=layer"], "'local', 'global'"),
        (["--activation_sparsity=1"], "activation_sparsity=1.0 is not in"),
        (["--tolerance=-1"], "tolerance=-1.0 is not in"),
        (["--calibration_batches=0"], "calibration_batches=0 is below 1"),
        (["--observer=max"], "'minmax', 'percentile', 'mse'"),
        (["--qat.epochs=0"], "epochs=0"),
        (["--qat.accelerator=abacus"], "abacus"),
        (["--finetune=null"], "nothing to start from"),
        (["--weights=missing.ckpt"], "missing.ckpt"),
        (["--data.max_length=65"], "max_length=65 is above the 64 positions"),
        (["--wdiths=[8]"], "wdiths"),
    ],
)
def test_lab1_refuses_wrong_input_in_one_line_before_any_training(
    refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in refused(LAB1, *SMALL, *arguments)


def test_lab1_refuses_to_continue_with_other_settings(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--frac_widths=[half]", "--methods=[random]", "--schedules=[one_shot]", "--widths=[8]"]
    assert run(LAB1, *SMALL, *few) == 0
    assert run(LAB1, *SMALL, *few, "--scope=global") == 2
    assert 'scope: "local" → "global"' in capsys.readouterr().err

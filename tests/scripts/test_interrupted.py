"""A run that was stopped, wherever it was, ends as one that was not."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_adls.budget import Budget
from lightning_adls.labs import model_run
from lightning_adls.labs.model_run import ModelRun

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
    *("--model.hidden_size=16", "--model.num_hidden_layers=1", "--model.intermediate_size=32"),
]
LABS = {
    "lab0": [
        str(ROOT / "scripts" / "lab0_finetune.py"),
        *("--pretraining.epochs=1", "--budget.epochs=1", "--budget.reports=2"),
        *("--lora_budget.epochs=1", "--lora_budget.reports=2", "--lora.rank=4"),
    ],
    "lab1": [
        str(ROOT / "scripts" / "lab1_compression.py"),
        *("--finetune.epochs=1", "--finetune.reports=1", "--qat.epochs=1", "--retrain.epochs=1"),
        *("--widths=[4,8]", "--sparsities=[0.3,0.6]", "--structured=[0.5]"),
        *("--calibration_batches=2", "--activation_sparsity=0.25", "--tolerance=0.1"),
    ],
}
# Enough to learn something, so that accuracies differ.
LEARNING = [
    *("--data.limit_train=1600", "--data.limit_val=128", "--data.max_length=48"),
    *("--model.hidden_size=32", "--model.dropout=0", "--classifier.learning_rate=0.003"),
    *("--finetune.epochs=3", "--qat.epochs=0.1", "--retrain.epochs=0.1"),
    *("--widths=[8]", "--frac_widths=[half]", "--sparsities=[0.3,0.6,0.9]", "--structured=[]"),
    *("--methods=[l1-norm]", "--activation_sparsity=0"),
]
TIMES = ("seconds", "total_seconds", "speedup", "speedup_p10", "speedup_p90", "command", "run")


@pytest.fixture
def lab(request: pytest.FixtureRequest, run: Callable[..., int], cache_dir: str) -> Any:
    """Call a lab by its name, with other arguments."""

    def lab(name: str, *arguments: str) -> int:
        script, *own = LABS[name]
        cache = f"--data.cache_dir={cache_dir}"
        return run(Path(script), *SMALL, *own, cache, *arguments)

    return lab


def without_times(value: Any) -> Any:
    """Without what two calls differ in."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, without the seconds that it took."""
    with (folder / "results.csv").open() as file:
        table = without_times(list(csv.DictReader(file)))
    return {
        "table": table,
        "summary": without_times(json.loads((folder / "summary.json").read_text())),
        "steps": without_times(json.loads((folder / "run.json").read_text())["steps"]),
        "checkpoints": {
            path.name: torch.load(path, weights_only=True)["state_dict"]
            for path in sorted(folder.glob("checkpoints/*"))
        },
        "predictions": {
            str(path.relative_to(folder)): path.read_text()
            for path in sorted(folder.glob("predictions/*/*.csv"))
        },
        "recipes": {path.name: path.read_text() for path in folder.glob("*_recipe.yaml")},
    }


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    states, others = first.pop("checkpoints"), second.pop("checkpoints")
    assert first == second
    assert list(states) == list(others)
    for name, state in states.items():
        assert list(state) == list(others[name])
        assert all(torch.equal(value, others[name][key]) for key, value in state.items()), name


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_a_run_killed_many_times_ends_as_one_that_was_not(
    name: str, lab: Callable[..., int], run_with_kills: Callable[..., int]
) -> None:
    assert lab(name, "--run=whole") == 0
    kills = run_with_kills(lambda: lab(name, "--run=killed"), seed=0, most=40)
    assert kills >= 3
    folder = Path("lightning_logs", name)
    assert_equal(results(folder / "whole"), results(folder / "killed"))


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_a_second_call_changes_nothing_and_what_the_summary_names_is_what_it_says(
    name: str, lab: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[ModelRun] = []
    start = ModelRun.start

    def noted(self: ModelRun, *arguments: Any) -> Any:
        runs.append(self)
        return start(self, *arguments)

    monkeypatch.setattr(ModelRun, "start", noted)
    folder = Path("lightning_logs", name, "test")
    assert lab(name, "--run=test") == 0
    first = results(folder)
    assert lab(name, "--run=test") == 0
    assert_equal(results(folder), dict(first))
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["results"].values():
        step = row.get("step", row.get("model"))
        assert (folder / row["checkpoint"]).is_file()
        module = runs[-1].module(step)
        task, budget = runs[-1].task, Budget(accelerator="cpu")
        assert task.validate(module, budget) == pytest.approx(row["val_accuracy"], abs=1e-6)
        if row["test_accuracy"] is not None:
            tested = task.test(module, budget)["accuracy"]
            assert tested == pytest.approx(row["test_accuracy"], abs=1e-6)


@pytest.mark.long
def test_another_tolerance_on_a_finished_run_of_lab_1_finds_the_weights_of_its_choice(
    lab: Callable[..., int],
) -> None:
    chosen = set()
    for tolerance in ("0.0", "0.9", "0.05"):
        assert lab("lab1", "--run=test", *LEARNING, f"--tolerance={tolerance}") == 0
        content = json.loads(Path("lightning_logs/lab1/test/summary.json").read_text())
        summary = content["results"]
        row = summary.get("sparse", summary["quantised"])
        assert Path("lightning_logs/lab1/test", row["checkpoint"]).is_file()
        chosen.add(row["step"])
    assert len(chosen) > 1, "the tolerance decided nothing"


@pytest.mark.long
def test_more_widths_of_lab_1_leave_the_checkpoints_of_one_run_with_all_of_them(
    lab: Callable[..., int],
) -> None:
    fewer = ["--methods=[random]", "--schedules=[one_shot]", "--structured=[]"]
    assert lab("lab1", "--run=one", *fewer, "--widths=[4,6]") == 0
    assert lab("lab1", "--run=two", *fewer, "--widths=[4]") == 0
    assert lab("lab1", "--run=two", *fewer, "--widths=[4,6]") == 0
    folder = Path("lightning_logs", "lab1")
    names = [{path.name for path in folder.glob(f"{run}/checkpoints/*")} for run in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.long
def test_a_checkpoint_that_somebody_removed_is_missed_in_one_line(
    lab: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab("lab0", "--run=test") == 0
    path = Path("lightning_logs/lab0/test/checkpoints") / f"{model_run.START}.ckpt"
    path.unlink()
    assert lab("lab0", "--run=test") == 2
    assert "start.ckpt is gone, the model of the step 'start'" in capsys.readouterr().err

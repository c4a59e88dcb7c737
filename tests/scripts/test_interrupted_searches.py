"""Labs 2 and 3, stopped wherever they were, and on several machines."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import optuna
import pytest
import torch

from lightning_adls.budget import Budget
from lightning_adls.search import Objective, Search, open_storage
from lightning_adls.search.lease import hold

ROOT = Path(__file__).parents[2]
DATA = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    "--data.max_length=24",
]
LABS = {
    "lab2": [
        str(ROOT / "scripts" / "lab2_nas.py"),
        *("--space.num_hidden_layers=[1]", "--space.num_attention_heads=[1, 2]"),
        *("--space.hidden_size=[8, 16]", "--space.intermediate_size=[8, 16]"),
        *("--budget.epochs=2", "--budget.reports=2", "--retrain.epochs=1"),
        *("--classifier.learning_rate=0.02", "--trials=3", "--only=[random, grid]"),
    ],
    "lab3": [
        str(ROOT / "scripts" / "lab3_mixed_precision.py"),
        *("--model.hidden_size=16", "--model.num_hidden_layers=1", "--model.intermediate_size=32"),
        *("--finetune.epochs=2", "--finetune.reports=1", "--budget.epochs=1", "--budget.reports=2"),
        *("--classifier.learning_rate=0.02", "--trials=3", "--only=[Full, Integer, Mixed]"),
    ],
}
Lab = Callable[..., int]


def lab_in(run: Callable[..., int], cache_dir: str) -> Lab:
    """Call a lab by its name, with other arguments."""

    def lab(name: str, *arguments: str) -> int:
        script, *own = LABS[name]
        return run(Path(script), *DATA, *own, f"--data.cache_dir={cache_dir}", *arguments)

    return lab


@pytest.fixture
def lab(run: Callable[..., int], cache_dir: str) -> Lab:
    return lab_in(run, cache_dir)


@dataclass
class Finished:
    """A run of a lab: its folder, and by the name of each search its objective and best choice."""

    folder: Path
    objectives: dict[str, Objective[Any]]
    choices: dict[str, Any]


@pytest.fixture(scope="module")
def finished(
    running_in: Callable[[Path], AbstractContextManager[Callable[..., int]]],
    cache_dir: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Finished]:
    """A run of a lab by its name, made once for all tests; they change nothing in its folder."""
    made: dict[str, Finished] = {}
    run_search = Search.run

    def finished(name: str) -> Finished:
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(name)
        this = Finished(folder / "lightning_logs" / name / "test", {}, {})

        def noted(self: Search[Any]) -> None:
            run_search(self)
            this.objectives[self.name] = cast(Objective[Any], self.objective)
            assert self.best is not None
            this.choices[self.name] = self.best.user_attrs["choice"]

        with running_in(folder) as run, pytest.MonkeyPatch.context() as patch:
            patch.setattr(Search, "run", noted)
            assert lab_in(run, cache_dir)(name, "--run=test") == 0
        return made.setdefault(name, this)

    return finished


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        changing = ("seconds", "total_seconds", "command", "run")
        return {k: without_seconds(v) for k, v in value.items() if k not in changing}
    return value


def results(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, without the seconds that it took."""
    with (folder / "results.csv").open() as file:
        table = [without_seconds(row) for row in csv.DictReader(file)]
    run = folder / "run.json"  # as soon as there is a step
    steps = json.loads(run.read_text())["steps"] if run.is_file() else {}
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        "files": sorted(str(path).partition(".tfevents.")[0] for path in files),
        "table": table,
        "summary": without_seconds(json.loads((folder / "summary.json").read_text())),
        "steps": without_seconds(steps),
        "checkpoints": {
            str(path.relative_to(folder)): torch.load(path, weights_only=True)["state_dict"]
            for path in sorted(folder.rglob("*.ckpt"))
        },
    }


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    for key in first.keys() - {"checkpoints"}:
        assert first[key] == second[key], key
    for name, state in first["checkpoints"].items():
        other = second["checkpoints"][name]
        assert list(state) == list(other)
        assert all(torch.equal(value, other[key]) for key, value in state.items()), name


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_a_run_killed_many_times_ends_as_one_that_was_not(
    name: str, lab: Lab, finished: Callable[[str], Finished], run_with_kills: Callable[..., int]
) -> None:
    whole = finished(name).folder
    kills = run_with_kills(lambda: lab(name, "--run=killed"), seed=1, most=40)
    assert kills >= 4
    assert_equal(results(whole), results(Path("lightning_logs", name, "killed")))


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_a_second_call_changes_nothing(
    name: str, lab: Lab, finished: Callable[[str], Finished]
) -> None:
    folder = Path("lightning_logs", name, "test")
    shutil.copytree(finished(name).folder, folder)
    first = results(folder)
    journal = (folder / "search.journal").stat().st_size
    assert lab(name, "--run=test") == 0
    assert_equal(results(folder), first)
    assert (folder / "search.journal").stat().st_size - journal < 20_000, "studies are opened only"


def judged(objective: Objective[Any], module: L.LightningModule) -> tuple[float, float]:
    trainer = Budget(accelerator="cpu").trainer(1)
    trainer.validate(module, datamodule=objective.data, verbose=False)
    accuracy = trainer.callback_metrics["val/accuracy"].item()
    trainer.test(module, datamodule=objective.data, verbose=False)
    return accuracy, trainer.callback_metrics["test/accuracy"].item()


def load(objective: Objective[Any], choice: Any, path: Path, compress: Any) -> L.LightningModule:
    """A model from what a summary says, without its study."""
    module = objective.build(objective.space.read(choice))
    if compress is not None:
        compress(module)
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return module


def test_what_the_summary_of_lab_3_names_is_what_it_says(
    finished: Callable[[str], Finished],
) -> None:
    ran = finished("lab3")
    folder = ran.folder
    for name, row in json.loads((folder / "summary.json").read_text())["results"].items():
        path = folder / row["best_checkpoint"]
        module = load(ran.objectives[name], ran.choices[name], path, None)
        found = judged(ran.objectives[name], module)
        assert found == pytest.approx((row["val_accuracy"], row["test_accuracy"]), abs=1e-6)
        assert (folder / row["best_recipe"]).is_file()


def test_what_the_summary_of_lab_2_names_is_what_it_says(
    finished: Callable[[str], Finished],
) -> None:
    ran = finished("lab2")
    folder = ran.folder
    models = json.loads((folder / "summary.json").read_text())["models"]
    compress = ran.objectives[models["aware"]["study"]].compress
    for name, row in models.items():
        objective, path = ran.objectives[row["study"]], folder / row["checkpoint"]
        compressed = None if name == "plain" else compress
        module = load(objective, row["architecture"], path, compressed)
        expected = pytest.approx((row["val_accuracy"], row["test_accuracy"]), abs=1e-6)
        assert judged(objective, module) == expected, name


@pytest.mark.long
@pytest.mark.parametrize("name", LABS)
def test_a_study_of_another_machine_is_shown_with_what_the_storage_knows(
    name: str, lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    storage = f"--storage=sqlite:///{tmp_path}/shared/studies.db"
    folder = Path("lightning_logs", name, "test")
    assert lab(name, "--run=test", storage) == 0
    first = results(folder)
    shutil.move("lightning_logs", "of_the_other_machine")
    capsys.readouterr()
    assert lab(name, "--run=test", storage) == 0
    said = capsys.readouterr().err.splitlines()
    here = results(folder)
    assert here["table"] == first["table"], "no trial was repeated"
    if name == "lab3":
        shown, before = here["summary"]["results"], first["summary"]["results"]
        missing = [row.pop("best_checkpoint") for row in shown.values()]
        names = [row.pop("best_checkpoint") for row in before.values()]
    else:
        shown, before = here["summary"]["models"], first["summary"]["models"]
        del before["compressed"]  # cannot be made without the weights
        missing = [row.pop("checkpoint") for row in shown.values()]
        names = [row.pop("checkpoint") for row in before.values()]
    assert missing == [None] * len(names)
    assert {k: row["test_accuracy"] for k, row in shown.items()} == {
        k: row["test_accuracy"] for k, row in before.items()
    }
    assert len(said) == len(names), "one line for each"
    for line, path in zip(said, names, strict=True):
        assert f"{folder / path} is not here; trial" in line
        assert "was run on" in line


@pytest.mark.long
def test_each_machine_runs_its_own_studies_of_one_storage(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"--storage=sqlite:///{tmp_path}/studies.db"
    assert lab("lab3", storage, "--only=[Integer]", "--run=test") == 0
    shutil.move("lightning_logs", "of_the_other_machine")
    assert lab("lab3", storage, "--only=[Full]", "--run=test") == 0
    summary = json.loads(Path("lightning_logs/lab3/test/summary.json").read_text())["results"]
    assert summary["Full"]["best_checkpoint"] is not None
    assert summary["Integer"]["best_checkpoint"] is None
    assert summary["Integer"]["test_accuracy"] is not None


@pytest.mark.long
@pytest.mark.parametrize(("name", "study"), [("lab2", "plain/random/0"), ("lab3", "Integer")])
def test_a_study_that_another_process_runs_is_refused_in_one_line(
    name: str, study: str, lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"sqlite:///{tmp_path}/studies.db"
    arguments = [f"--storage={where}", "--run=test"]
    assert lab(name, *arguments, "--trials=1") == 0
    with open_storage(where) as storage:
        other = optuna.load_study(study_name=f"{name}/test/{study}", storage=storage)
        with hold(other):
            capsys.readouterr()
            assert lab(name, *arguments) == 2
            printed = capsys.readouterr()
            assert "is being run by process" in printed.err.splitlines()[-1]
            assert "Traceback" not in printed.err
    assert lab(name, *arguments) == 0


@pytest.mark.long
def test_failures_in_a_row_end_lab_3_in_one_line_with_their_reason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for this")

    assert lab("lab3", "--run=test", "--trials=1") == 0
    with monkeypatch.context() as broken:
        broken.setattr(L.Trainer, "fit", fit)
        assert lab("lab3", "--run=test", "--trials=6") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 'Integer' stops after 3 failed trials in a row")
    assert "RuntimeError: no kernel for this" in last
    assert lab("lab3", "--run=test", "--trials=6") == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("lab2", ["--samplers.mine=optuna.samplers.NSGAIISampler", "--only=[mine]"]),
        ("lab3", ["--sampler=optuna.samplers.NSGAIISampler", "--sampler.population_size=2"]),
    ],
)
def test_another_sampler_is_one_argument(name: str, sampler: list[str], lab: Lab) -> None:
    assert lab(name, "--run=test", *sampler) == 0
    with Path("lightning_logs", name, "test", "results.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} <= {"complete", "pruned"}

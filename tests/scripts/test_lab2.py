"""Lab 2 as its users run it, on a few of the built-in reviews."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import handed_on
import made_again
import optuna
import pytest
import yaml

from lightning_adls.labs.comparing import rank
from lightning_adls.models import bert
from lightning_adls.search import (
    Architecture,
    ArchitectureSpace,
    GridSampler,
    best_curve,
    make_sampler,
)

ROOT = Path(__file__).parents[2]
LAB2 = ROOT / "scripts" / "lab2_nas.py"
SMALL = [
    *("--data.limit_train=64", "--data.limit_val=64", "--data.limit_test=64"),
    *("--data.max_length=24", "--budget.accelerator=cpu"),
    *("--space.num_hidden_layers=[1]", "--space.num_attention_heads=[1, 2]"),
    *("--space.hidden_size=[8, 16]", "--space.intermediate_size=[8, 16]"),
    *("--budget.epochs=1", "--budget.reports=1", "--retrain.epochs=1"),
    *("--run=test", "--trials=3", "--only=[random, grid]"),
]
RANDOM = "--only=[random]"
SEARCHES = ("plain/random", "plain/grid", "aware/{}", "aware_retrained/{}")

Run = Callable[..., int]


@pytest.fixture
def run(run: Callable[..., int], cache_dir: str) -> Run:
    """Run the lab in an empty folder; returns its exit status."""
    return partial(run, LAB2, *SMALL, f"--data.cache_dir={cache_dir}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lightning_logs" / "lab2" / "test"


def rows(folder: Path) -> list[dict[str, str]]:
    """The trials, without their seconds and without what the best of a study alone has."""
    changing = ("seconds", "checkpoint", "test_accuracy", "test_standard_error")
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in r.items() if k not in changing} for r in csv.DictReader(file)]


def seconds_of(folder: Path) -> list[str]:
    with (folder / "results.csv").open() as file:
        return [row["seconds"] for row in csv.DictReader(file)]


def summary(folder: Path) -> dict[str, Any]:
    """What was found; not how long it took, and by which command."""
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in content.items() if k not in ("run", "command", "total_seconds")}


def test_both_tasks_write_all_their_results_and_a_second_call_runs_nothing(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    found = summary(folder)
    assert sorted(found["samplers"]) == ["grid", "random"]
    best = next(iter(found["samplers"]))
    assert [(row["search"], row["sampler"], row["seed"]) for row in rows(folder)[:4:3]] == [
        ("plain", sampler, "0") for sampler in ("random", "grid")
    ]
    expected = [(name.format(best), str(n)) for name in SEARCHES for n in (1, 2, 3)]
    assert [(row["study"].rpartition("/")[0], row["trial"]) for row in rows(folder)] == expected
    assert list(found["models"]) == ["plain", "compressed", "aware", "aware_retrained"]
    for model in found["models"].values():
        assert 0 <= model["test_accuracy"] <= 1
        assert (folder / model["checkpoint"]).is_file()
        assert model["architecture"]["hidden_size"] in (8, 16)
    made_again.check(folder)
    for name in ("samplers.png", "compression_aware.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert list(folder.glob("overview/plain/grid/0/events*"))
    assert len(list(folder.glob("plain/grid/0/hparams/*/events*"))) == 3
    assert len(list(folder.glob("plain/grid/0/trials/*/events*"))) >= 3
    assert list(folder.glob(f"aware_retrained/{best}/0/trials/*/retrain/events*"))
    printed = capsys.readouterr().out
    assert "Task 1: samplers" in printed
    assert "plain/random/0 3/3" in printed
    assert max(map(len, printed[printed.index("Task 1") :].split("plain: ")[0].splitlines())) <= 80

    created = b'"op_code":4'  # Optuna's code for a new trial
    before = (folder / "search.journal").read_bytes().count(created)
    assert before == 12
    tables = (summary(folder), rows(folder))
    assert run() == 0
    assert (folder / "search.journal").read_bytes().count(created) == before
    assert (summary(folder), rows(folder)) == tables
    assert "complete already" in capsys.readouterr().out


@pytest.mark.long
def test_models_of_task_2_are_judged_as_they_are_compressed(run: Run, folder: Path) -> None:
    assert run(RANDOM, "--trials=2") == 0
    models = summary(folder)["models"]
    plain, compressed = models["plain"], models["compressed"]
    assert plain["architecture"] == compressed["architecture"]
    assert plain["val_accuracy_before_compression"] is None
    assert compressed["val_accuracy_before_compression"] == pytest.approx(plain["val_accuracy"])
    gained = compressed["wrong_to_right"] - compressed["right_to_wrong"]
    assert gained / 64 == pytest.approx(compressed["val_accuracy"] - plain["val_accuracy"])
    assert compressed["flips"] >= abs(gained)
    assert plain["bits_per_weight"] == 32
    assert plain["sparsity"] == 0
    assert compressed["size_mb"] < plain["size_mb"]
    for name in ("compressed", "aware", "aware_retrained"):
        assert models[name]["sparsity"] == pytest.approx(0.7, abs=0.01)
        assert models[name]["bits_per_weight"] < 6
    # The same seed and sampler: the searches train the same models before they compress them.
    values: dict[str, list[float]] = {}
    for row in rows(folder):
        before = "" if row["search"] == "plain" else "_before_compression"
        key = f"val_accuracy{before}"
        values.setdefault(row["study"], []).append(float(row[key]))
    assert len({tuple(found) for found in values.values()}) == 1


@pytest.mark.long
def test_models_are_chosen_by_one_half_of_the_rows_and_reported_on_the_other(
    run: Run, folder: Path
) -> None:
    assert run(RANDOM, "--trials=2", "--report_on=half") == 0
    found = summary(folder)
    for row in rows(folder):
        for column in ("val_accuracy", "val_accuracy_before_compression"):
            if row[column]:
                assert (float(row[column]) * 32) % 1 == pytest.approx(0, abs=1e-4)
    # What the trial came to on the half that did not choose it is what is reported of it.
    for name in ("plain", "aware", "aware_retrained"):
        model = found["models"][name]
        (best,) = (
            row
            for row in rows(folder)
            if (row["study"], row["trial"]) == (model["study"], str(model["trial"]))
        )
        assert model["val_accuracy"] == pytest.approx(float(best["val_accuracy"]), abs=1e-6)
        values = [float(r["value"]) for r in rows(folder) if r["study"] == model["study"]]
        assert float(best["value"]) == max(values)
    plain, compressed = found["models"]["plain"], found["models"]["compressed"]
    assert compressed["val_accuracy_before_compression"] == plain["val_accuracy"]
    assert found["best"]["best"] in found["models"]


@pytest.mark.long
def test_config_yaml_repeats_the_run(run: Run, folder: Path) -> None:
    few = ["--only=[tpe]", "--trials=2"]
    assert run(*few) == 0
    assert run(f"--config={folder / 'config.yaml'}", "--run=again") == 0
    assert rows(folder.parent / "again") == rows(folder)
    assert summary(folder.parent / "again") == summary(folder)


@pytest.mark.long
def test_more_trials_and_seeds_add_to_a_run(run: Run, folder: Path) -> None:
    assert run(RANDOM, "--trials=1") == 0
    (first, *_) = rows(folder)
    assert run(RANDOM, "--trials=2", "--seeds=[0, 1]") == 0
    assert rows(folder)[0] == first
    searches = [kind for kind in ("plain", "aware", "aware_retrained") for _ in range(4)]
    assert [row["study"].split("/")[0] for row in rows(folder)] == searches
    (sampler,) = summary(folder)["samplers"].values()
    assert sampler["mean_best"] == pytest.approx(sum(sampler["best_by_seed"].values()) / 2)


@pytest.mark.long
def test_identities_and_limits_are_searched(run: Run, folder: Path) -> None:
    assert run("--space.identities=search", "--only=[tpe]", "--limits.parameters=15000") == 0
    recipes = [json.loads(row["architecture"]) for row in rows(folder)]
    assert any(recipe["identities"] for recipe in recipes)
    for row in rows(folder):
        assert (row["state"] == "pruned") == (int(row["parameters"]) > 15000)


@pytest.mark.long
def test_a_winner_without_some_of_its_layers_is_handed_on(run: Run, folder: Path) -> None:
    few = ["--space.num_attention_heads=[2]", "--space.hidden_size=[16]", "--trials=1"]
    assert run(RANDOM, "--space.identities=search", *few) == 0
    model = summary(folder)["models"]["aware_retrained"]
    assert model["architecture"]["identities"]
    accuracy = model["val_accuracy"]
    handed_on.check("lab2/test", "aware_retrained", accuracy, "--study=aware_retrained")


@pytest.mark.long
def test_costs_are_minimised_beside_the_accuracy(run: Run, folder: Path) -> None:
    assert run(RANDOM, "--trials=2", "--minimise=[size_mb, bit_operations]") == 0
    fronts = summary(folder)["fronts"]
    assert list(fronts) == ["plain/random/0", "aware/random/0", "aware_retrained/random/0"]
    for row in rows(folder):
        on_front = [member["trial"] for member in fronts[row["study"]]]
        assert (row["on_front"] == "1") == (int(row["trial"]) in on_front)
        assert float(row["hypervolume"]) >= 0
        assert (row["bit_operations"] == "") == (row["search"] == "plain")
    for members in fronts.values():
        for member in members:
            choice = yaml.safe_load((folder / member["choice"]).read_text())["choice"]
            assert choice["hidden_size"] in (8, 16)
    assert (folder / "hypervolume.png").is_file()
    tables = summary(folder), rows(folder)
    assert run(RANDOM, "--trials=2", "--minimise=[size_mb, bit_operations]") == 0
    assert (summary(folder), rows(folder)) == tables


def test_a_limit_that_no_model_keeps_ends_in_one_line(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--limits.parameters=100") == 2
    assert "with no sampler did each seed complete a trial" in capsys.readouterr().err
    assert {row["state"] for row in rows(folder)} == {"pruned"}


@pytest.mark.long
def test_models_start_from_the_weights_of_a_checkpoint(
    run: Run, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = Architecture(1, 1, hidden_size=8, intermediate_size=16)
    model: Any = architecture.build(partial(bert, vocab_size=1000, max_position_embeddings=64))
    model.save_pretrained(tmp_path / "pretrained")
    few = [RANDOM, "--trials=1"]
    assert run(*few, "--reuse=[pretrained]") == 0
    printed = capsys.readouterr().out
    assert "hidden_size 16: 0% of the smallest model is reused" in printed
    assert "hidden_size 8: 9" in printed
    assert run(*few) == 2, "the same run without the checkpoint is another one"
    assert run("--run=none", "--space.hidden_size=[16]", "--reuse=[pretrained]") == 2
    assert "has no weights for any of hidden_size=[16]" in capsys.readouterr().err


@pytest.mark.long
def test_a_killed_search_loses_no_finished_trial(run: Run, folder: Path, cache_dir: str) -> None:
    command = [sys.executable, str(LAB2), *SMALL, f"--data.cache_dir={cache_dir}"]
    process = subprocess.Popen([*command, RANDOM], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "results.csv").is_file() or len(rows(folder)) < 4:  # in task 2
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    finished, seconds = rows(folder), seconds_of(folder)
    assert len(finished) < 9
    assert run(RANDOM) == 0
    assert rows(folder)[: len(finished)] == finished
    assert seconds_of(folder)[: len(finished)] == seconds, "they did not run again"
    assert len(rows(folder)) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=[cmaes]"], "'cmaes', which is no sampler; there are grid, random, tpe"),
        (["--only=[]"], "only=[] is empty"),
        (["--samplers.mine=optuna.samplers.Nothing"], "samplers"),
        (["--seeds=[1, 1]"], "seeds=[1, 1] is empty or has a value twice"),
        (["--seeds=[-1]"], "seeds=[-1] has one below 0"),
        (["--trials=0"], "trials=0 is below 1"),
        (["--minimise=[size]"], "minimise=['size'] names 'size', which is no cost; did you mean"),
        (["--space.identities=search"], "identities: keep, or use 'random' or 'tpe'"),
        (["--space.hidden_size=[9]"], "hidden_size=9 is no multiple of num_attention_heads=2"),
        (["--space.hidden_sizes=[8]"], "hidden_sizes"),
        (["--data.max_length=65"], "max_length=65 is above the 64 positions"),
        (["--quantize={'*': Intger}"], "did you mean Integer"),
        (["--quantize={'encodr.*': Integer}"], "pattern 'encodr.*' matches none"),
        (["--prune.sparsity=1"], "sparsity=1.0 is not in 0"),
        (["--prune.layers=[encodr.*]"], "pattern 'encodr.*' matches none"),
        (["--limits.parameters=0"], "parameters=0 is below 1"),
        (["--reuse=[nothing]"], "checkpoint='nothing' is no folder"),
        (["--budget.accelerator=abacus"], "abacus"),
        (["--retrain.precision=int3"], "precision='int3'"),
        (["--classifier.learning_rate=-1"], "learning_rate=-1.0 is not above 0"),
        (["--model.hidden_size=8"], "hidden_size"),
        (["--config=missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_input_is_refused_in_one_line_before_any_training(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in printed.err
    assert not list(tmp_path.glob("lightning_logs/**/*.ckpt"))


@pytest.mark.long
def test_a_changed_run_is_refused_with_the_difference(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(RANDOM, "--trials=1") == 0
    assert run(RANDOM, "--trials=1", "--prune.sparsity=0.5") == 2
    assert "prune.sparsity: 0.7 → 0.5" in capsys.readouterr().err


def test_the_ranges_of_imdb_make_a_space_that_a_grid_can_enumerate() -> None:
    content = yaml.safe_load((ROOT / "configs" / "lab2_imdb.yaml").read_text())
    space = ArchitectureSpace(**content["space"])
    assert space.points == 3 * 4 * 5 * 5
    make_sampler(GridSampler, space, 0)


def test_samplers_are_ranked_by_value_then_speed_then_order() -> None:
    def searches(*values: list[float]) -> Any:
        found = {}
        for seed, run in enumerate(values):
            study = optuna.create_study(direction="maximize")
            for index, value in enumerate(run):
                trial = optuna.trial.create_trial(value=value, user_attrs={"index": index})
                study.add_trial(trial)
            found[seed] = SimpleNamespace(curve=best_curve(study))
        return found

    found = {
        "none": searches([0.99], []),
        "slow": searches([0.5, 0.8], [0.6]),
        "low": searches([0.6, 0.7], [0.6]),
        "fast": searches([0.8, 0.7], [0.6]),
        "also_fast": searches([0.8], [0.6, 0.6]),
    }
    ranking = rank(found, 100)
    assert list(ranking) == ["fast", "also_fast", "slow", "low", "none"]
    assert ranking["slow"]["mean_best"] == pytest.approx(0.7)
    # Of 0.8 and 0.6, and of each of them on 100 rows.
    assert ranking["slow"]["mean_best_standard_error"] == pytest.approx(0.1)
    assert ranking["slow"]["standard_error_by_seed"] == {0: 0.04, 1: 0.04899}
    assert ranking["slow"]["trials_to_best"] == 1.5
    assert ranking["none"] == {
        "mean_best": None,
        "mean_best_standard_error": None,
        "trials_to_best": None,
        "best_by_seed": {0: 0.99, 1: None},
        "standard_error_by_seed": {0: 0.00995, 1: None},
    }
    alone = rank({"one": searches([0.5, 0.8])}, 100)["one"]
    assert alone["mean_best_standard_error"] == pytest.approx(0.04)

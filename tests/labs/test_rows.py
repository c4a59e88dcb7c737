"""The rows of results.csv: a column for each thing."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.columns import accuracy
from lightning_adls.labs.rows.steps import LAB1, START, TRAINED, lab0, lab1
from lightning_adls.labs.rows.trials import TrialTable, total_seconds
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row, write_csv
from lightning_adls.search.study import best_trial, counted_trials


def a_run(steps: dict[str, Row]) -> Any:
    """What the rows need of a run that has done these steps."""
    kept = {"transforms": [], "checkpoint": "a.ckpt", "parameters": 9, "seconds": 1.0}
    rows = {step: {**kept, **row} if "accuracy" in row else row for step, row in steps.items()}
    tested = {f"test/{START}": {"accuracy": 0.75, "rows": 400}}
    texts = SimpleNamespace(row_counts={"train": 10, "val": 100})
    return SimpleNamespace(rows={**rows, **tested}, task=SimpleNamespace(texts=texts))


def test_a_pruned_model_has_what_was_done_to_it_and_the_width_of_its_source() -> None:
    pruned = {"pruned_from": "qat/mse-2/4", "method": "l1-norm", "schedule": "one_shot"}
    about = {"how": "qat", "width": 4, "frac_width": "calibrated", "observer": "mse"}
    rows = lab1(
        a_run(
            {
                START: {"accuracy": 0.8},
                TRAINED: {"accuracy": 0.85},
                "calibrated/mse-2/4": {"recipe": {}},
                "ptq/mse-2/4": {"accuracy": 0.6, **about, "how": "ptq"},
                "qat/mse-2/4": {"accuracy": 0.7, **about},
                "pruned/a": {
                    "accuracy": 0.65,
                    "accuracy_untrained": 0.5,
                    "target": 0.9,
                    "sparsity": 0.899,
                    **pruned,
                },
                "removed/b": {"accuracy": 0.6, "removed_from": "qat/mse-2/4", "share": 0.5},
            }
        )
    )
    assert [set(row) for row in rows] == [set(LAB1)] * 6
    keys = ("method", "width", "frac_width", "observer", "training", "source")
    source = "qat/mse-2/4"
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("float32", None, None, None, "finetune", None),
        ("float32", None, None, None, "qat", None),
        ("quantised", 4, "calibrated", "mse", "none", None),
        ("quantised", 4, "calibrated", "mse", "qat", None),
        ("l1-norm", 4, "calibrated", "mse", "retrain", source),
        ("structured", 4, "calibrated", "mse", "retrain", source),
    ]
    how = ("schedule", "target_sparsity", "sparsity", "removed_share", "val_accuracy_untrained")
    assert [tuple(row[key] for key in how) for row in rows[4:]] == [
        ("one_shot", 0.9, 0.899, None, 0.5),
        (None, None, None, 0.5, None),
    ]
    assert (rows[0]["val_accuracy"], rows[0]["val_standard_error"]) == (0.8, 0.04)
    assert rows[0]["test_standard_error"] == pytest.approx((0.75 * 0.25 / 400) ** 0.5, abs=1e-6)
    assert rows[1]["test_accuracy"] is None


def test_models_of_lab_0_say_by_what_they_were_trained() -> None:
    steps: dict[str, Row] = {n: {"accuracy": 0.5} for n in ("start", "full", "lora", "merged")}
    rows = lab0(a_run(steps))
    assert [row["training"] for row in rows] == ["pretraining", "full", "lora", "lora"]


def test_an_accuracy_without_rows_has_no_standard_error() -> None:
    assert accuracy("test", 0.5, None) == {"test_accuracy": 0.5, "test_standard_error": None}
    assert accuracy("val", None, 100) == {"val_accuracy": None, "val_standard_error": None}


@pytest.fixture
def searches() -> dict[str, Any]:
    study = optuna.create_study(direction="maximize")
    for index, (value, state) in enumerate(
        [(0.5, "COMPLETE"), (None, "FAIL"), (0.8, "COMPLETE"), (0.6, "PRUNED")]
    ):
        attributes = {"index": index, "choice": {"*": "Integer"}, "seconds": 2.0}
        attributes |= {"error": "no"} if state == "FAIL" else {"size_mb": 0.5}
        attributes |= {"checkpoint": f"trial-{index + 1:03d}.ckpt"} if state == "COMPLETE" else {}
        study.add_trial(create_trial(state=TrialState[state], value=value, user_attrs=attributes))
    study.set_user_attr("test", {"trial": 2, "accuracy": 0.75, "rows": 400})
    search = SimpleNamespace(study=study, best=best_trial(study), counted=counted_trials(study))
    return {"Integer": search}


def test_a_trial_has_its_place_from_1_its_accuracies_and_the_weights_that_are_kept(
    searches: dict[str, Any], tmp_path: Path
) -> None:
    table = TrialTable(
        tmp_path / "a.csv", searches, Monitoring(100), "recipe", lambda _: {"seed": 3}
    )
    table.write()
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = ("study", "seed", "trial", "state", "val_accuracy", "running_best", "test_accuracy")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("Integer", "3", "1", "complete", "0.5", "0.5", ""),
        ("Integer", "3", "2", "fail", "", "0.5", ""),
        ("Integer", "3", "3", "complete", "0.8", "0.8", "0.75"),
        ("Integer", "3", "4", "pruned", "0.6", "0.8", ""),
    ]
    assert [row["val_standard_error"] for row in rows] == ["0.05", "", "0.04", "0.04899"]
    assert [row["checkpoint"] for row in rows] == ["", "", "Integer/trial-003.ckpt", ""]
    assert json.loads(rows[0]["recipe"]) == {"*": "Integer"}
    assert total_seconds(searches) == 8.0


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = tmp_path / "lab3" / "x"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {}\n")
    row = {"study": "8", "trial": 1, "val_accuracy": 0.5, "running_best": None, "recipe": {"a": []}}
    rows = [row, {**row, "val_accuracy": float("nan"), "study": "true"}]
    write_csv(folder / "results.csv", rows)
    first, second = StoredRun.read(folder).rows
    assert first == rows[0]
    assert second["study"] == "true"
    assert second["val_accuracy"] != second["val_accuracy"]

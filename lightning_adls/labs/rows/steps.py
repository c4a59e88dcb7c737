"""Rows of a run's steps: of Lab 0, of what Lab 1 quantises and prunes, and of any other lab."""

from collections.abc import Sequence

from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.rows.columns import ACCURACIES, COSTS, FLIPS, accuracy, chosen, measured
from lightning_adls.report import Row
from lightning_adls.significance import standard_error

LAB0 = (
    *("model", "training", *ACCURACIES, "trainable", *COSTS, "seconds", "checkpoint", "recipe"),
    *("largest_difference", "largest_logit", "curve"),
)
LAB1 = (
    *("step", "method", "width", "frac_width", "observer", "schedule", "target_sparsity"),
    *("removed_share", "training", "source"),
    *("val_accuracy_untrained", "val_standard_error_untrained", *ACCURACIES, *FLIPS, *COSTS),
    *("speedup", "speedup_p10", "speedup_p90", "seconds", "checkpoint", "recipe"),
)
OWN_LAB = ("step", *ACCURACIES, *FLIPS, *COSTS, "seconds", "checkpoint", "recipe")
START, TRAINED = "float32/start", "float32/trained"
_TRAINING = {"start": "pretraining", "full": "full", "lora": "lora", "merged": "lora"}


def lab0(run: ModelRun) -> list[Row]:
    """A row for each model."""
    return [
        chosen({"model": step, "training": _TRAINING[step], **_curve(run, step)}, LAB0)
        for step in _models(run)
    ]


def _curve(run: ModelRun, step: str) -> Row:
    """What every step says, with the standard error of each point of its curve, if it has one."""
    row = _model(run, step)
    if (points := row.get("curve")) is None:
        return row
    rows = _val_rows(run)
    return {**row, "curve": [[x, y, round(standard_error(y, rows), 6)] for x, y in points]}


def lab1(run: ModelRun) -> list[Row]:
    """A row for each step that left a model."""
    return [
        chosen({"step": step, **_compressed(run, step), **_model(run, step)}, LAB1)
        for step in _models(run)
    ]


def own_lab(run: ModelRun) -> list[Row]:
    """A row for each step that left a model."""
    return [chosen({"step": step, **_model(run, step)}, OWN_LAB) for step in _models(run)]


def _models(run: ModelRun) -> Sequence[str]:
    return [step for step, row in run.rows.items() if "checkpoint" in row]


def _model(run: ModelRun, step: str) -> Row:
    """What every step says of its model."""
    row, test = run.rows[step], run.rows.get(f"test/{step}", {})
    return {
        **row,
        **accuracy("val", row["accuracy"], _val_rows(run)),
        **accuracy("test", test.get("accuracy"), test.get("rows")),
        "recipe": row["transforms"],
    }


def _compressed(run: ModelRun, step: str) -> Row:
    """How a model of Lab 1 was made; what is pruned keeps the width of what it is made of."""
    row = run.rows[step]
    if "how" in row:
        return {"method": "quantised", "training": "none" if row["how"] == "ptq" else "qat"}
    source = row.get("pruned_from", row.get("removed_from"))
    if source is None:
        return {"method": "float32", "training": "qat" if step == TRAINED else "finetune"}
    return {
        **chosen(run.rows[source], ("width", "frac_width", "observer")),
        "method": row.get("method", "structured"),
        "target_sparsity": row.get("target"),
        "removed_share": row.get("share"),
        "training": "retrain",
        "source": source,
        **measured("val_accuracy_untrained", row.get("accuracy_untrained"), _val_rows(run)),
    }


def _val_rows(run: ModelRun) -> int:
    return run.task.texts.row_counts["val"]

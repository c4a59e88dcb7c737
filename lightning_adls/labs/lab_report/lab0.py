"""Lab 0: all weights against low-rank adapters."""

from lightning_adls.labs.drawing.lab0 import NAMES
from lightning_adls.labs.lab_report.comparing import Model, compare, sentence, warn_of_chance
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    with_errors,
)
from lightning_adls.labs.stored import StoredRun

_COLUMNS = {
    "model": ("model", ""),
    **ACCURACY_COLUMNS,
    "trainable": ("trainable parameters", ",d"),
    "parameters": ("parameters", ",d"),
    "seconds": ("seconds", ".1f"),
}
_NAMES = {"full": "training all weights", "lora": "LoRA", "merged": "LoRA, merged"}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 0."""
    rows = {row["model"]: row for row in run.rows}
    models = {name: Model(_NAMES.get(name, "the start"), rows[name], name) for name in rows}
    shown = {name: {**with_errors(row), "model": NAMES[name]} for name, row in rows.items()}
    found = Content([ReportTable("Fine-tuning", _COLUMNS, list(shown.values()))])

    warning = warn_of_chance("Every model", run.rows, len(run.classes))
    found.observe(*warning, main=True)

    def say(first: str, second: str, split: str = "val", *, main: bool = False) -> None:
        if first in rows and second in rows and rows[first][f"{split}_standard_error"] is not None:
            difference = compare(run, models[first], models[second], split)
            text = sentence(
                models[first].name, models[second].name, difference, f"on {_SPLITS[split]}"
            )
            found.observe(text[0].upper() + text[1:], main=main)

    say("full", "start")
    say("lora", "start")
    say("full", "lora", main=True)
    say("full", "merged", "test", main=True)
    if "lora" in rows and rows["lora"]["trainable"]:
        share = rows["lora"]["trainable"] / rows["full"]["trainable"]
        ratio = rows["full"]["seconds"] / rows["lora"]["seconds"]
        cost = (
            f"LoRA trains {rows['lora']['trainable']:,} parameters, {share:.1%} of those that the "
            f"full fine-tune trains; its training took {1 / ratio:.2f} times as long."
        )
        found.observe(cost)
        found.takeaways.append(cost)
    for row in shown.values():
        if row["test"] is not None:
            found.takeaways.append(f"{row['model']}: {row['test']} on the test rows.")
    if "merged" in rows:
        merged = rows["merged"]
        text = (
            f"Merging the adapters changed no logit by more than {merged['largest_difference']:.1e}"
            f" (largest logit {merged['largest_logit']:.2f}); "
        )
        same = merged["val_accuracy"] == rows["lora"]["val_accuracy"]
        found.observe(text + f"the validation accuracy is {'the same' if same else 'another'}.")
    return found


_SPLITS = {"val": "the validation rows", "test": "the test rows"}

"""A lab of your own: the models of its steps, and those that it tested compared."""

from itertools import combinations

from lightning_adls.labs.lab_report.comparing import Model, compare, sentence, warn_of_chance
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    with_errors,
)
from lightning_adls.labs.stored import StoredRun

_COLUMNS = {
    "step": ("step", ""),
    **ACCURACY_COLUMNS,
    "parameters": ("parameters", ",d"),
    "bits_per_weight": ("bits per weight", ".2f"),
    "sparsity": ("sparsity", ".2f"),
    "size_mb": ("MB", ".3f"),
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of any lab that has steps."""
    found = Content([ReportTable("Models", _COLUMNS, [with_errors(row) for row in run.rows])])
    found.observe(*warn_of_chance("Every model", run.rows, len(run.classes)), main=True)
    best = max(run.rows, key=lambda row: float(row["val_accuracy"]))
    found.observe(f"The best on validation is {best['step']}, {with_errors(best)['val']}.")
    models = tested(run)
    for first, second in combinations(models, 2):
        difference = compare(run, first, second, "test")
        found.observe(sentence(first.name, second.name, difference, "on the test rows"), main=True)
    for model in models:
        found.takeaways.append(
            f"{model.name}: {with_errors(model.row)['test']} on test, "
            f"{model.row['bits_per_weight']:.3g} bits per weight, {model.row['size_mb']:.2f} MB."
        )
    return found


def tested(run: StoredRun) -> list[Model]:
    """The models that the lab tested."""
    return [
        Model(row["step"], row, row["step"])
        for row in run.rows
        if row["test_standard_error"] is not None
    ]

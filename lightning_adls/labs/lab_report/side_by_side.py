"""What several runs say of each other."""

from collections.abc import Sequence
from itertools import combinations

from lightning_adls.labs.drawing.lab2 import MODELS
from lightning_adls.labs.drawing.lab3 import winners_of
from lightning_adls.labs.drawing.searches import studies
from lightning_adls.labs.lab_report import over_seeds, own_lab
from lightning_adls.labs.lab_report.comparing import Model, compare_runs, sentence
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    with_errors,
)
from lightning_adls.labs.stored import StoredRun

_COLUMNS = {
    "run": ("run", ""),
    "model": ("model", ""),
    **ACCURACY_COLUMNS,
    "bits_per_weight": ("bits per weight", ".2f"),
    "size_mb": ("MB", ".3f"),
    "parameters": ("parameters", ",d"),
}


def describe(runs: Sequence[StoredRun]) -> Content:
    """A table of the chosen models of all runs, and those of the same name compared on test."""
    found = Content()
    if len(runs) == 1:
        return found
    chosen = [chosen_models(run) for run in runs]
    rows = [
        {"run": f"{run.lab}/{run.name}", "model": model.name, **with_errors(model.row)}
        for run, models in zip(runs, chosen, strict=True)
        for model in models
    ]
    if rows:
        found.tables.append(ReportTable("Runs side by side", _COLUMNS, rows))
    found.tables += over_seeds.tables(runs)
    for (one, first), (other, second) in combinations(zip(runs, chosen, strict=True), 2):
        if one.lab != other.lab or one.config["data"]["dataset"] != other.config["data"]["dataset"]:
            continue
        rivals = {model.name: model for model in second}
        for model in first:
            rival = rivals.get(model.name)
            if rival is None or None in [
                one_of.row["test_standard_error"] for one_of in (model, rival)
            ]:
                continue
            difference = compare_runs(one, model, other, rival, "test")
            found.observe(
                sentence(
                    f"{model.name} of {one.lab}/{one.name}",
                    f"that of {other.lab}/{other.name}",
                    difference,
                    "on the test rows",
                ),
                main=True,
            )
    return found


def chosen_models(run: StoredRun) -> list[Model]:
    """The models that a run was about, tested where it tested them."""
    if run.lab == "lab0":
        return [Model(row["model"], row, row["model"]) for row in run.rows]
    if run.lab == "lab1":
        return [Model(name, row, row["step"]) for name, row in run.results.items()]
    if run.lab == "lab2":
        steps = {n: f"{row['study']}/{row['trial']}" for n, row in run.results.items()}
        if "compressed" in steps:
            steps["compressed"] = f"compressed/{steps['compressed']}"
        return [Model(MODELS[name], row, steps[name]) for name, row in run.results.items()]
    if run.lab == "lab3":
        winners = winners_of(studies(run.rows))
        return [Model(row["study"], row, f"{row['study']}/{row['trial']}") for row in winners]
    return [] if run.lab == "lab4" else own_lab.tested(run)

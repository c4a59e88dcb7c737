"""Runs that differ in nothing but their seed: means over it."""

import json
from collections.abc import Iterator, Sequence

from lightning_adls.labs.lab_report.content import ReportTable
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row
from lightning_adls.significance import standard_error_of_mean

# Arguments that a seed brings with it, or that decide no result: a run starts from the weights of
# its own seed, and may have workers of its own.
_APART = {"seed", "run", "weights", "config", "engine", "workers", "storage", "ray", "logger"}
# What the others are measured against.
_BASES = {"lab1": "float32/trained", "lab3": "Full"}
_COLUMNS = {"model": ("model", ""), "val": ("val accuracy", ""), "test": ("test accuracy", "")}


def tables(runs: Sequence[StoredRun]) -> list[ReportTable]:
    """A table for each lab and configuration that there are runs of several seeds of."""
    return [table for alike in _alike(runs) if (table := _table(alike)).rows]


def _alike(runs: Sequence[StoredRun]) -> Iterator[list[StoredRun]]:
    groups: dict[str, dict[int, StoredRun]] = {}
    for run in runs:
        if "seed" in run.config and run.rows:  # Lab 2 has several seeds in a run
            rest = {k: v for k, v in run.config.items() if k not in _APART}
            key = json.dumps([run.lab, rest], sort_keys=True, default=str)
            groups.setdefault(key, {}).setdefault(run.config["seed"], run)
    yield from (list(group.values()) for group in groups.values() if len(group) > 1)


def _table(runs: Sequence[StoredRun]) -> ReportTable:
    lab, named = runs[0].lab, [_by_name(run) for run in runs]
    shared = [name for name in named[0] if all(name in rows for rows in named)]
    base = _BASES.get(lab)
    tests = [rows_of[name].get("test_accuracy") for rows_of in named for name in shared]
    split = "val" if None in tests else "test"
    columns = dict(_COLUMNS)
    if base in shared:
        columns["difference"] = (f"points above {base}, {split}", "")
    rows = []
    for name in shared:
        row: Row = {"model": name}
        for part in ("val", "test"):
            row[part] = _mean([rows_of[name].get(f"{part}_accuracy") for rows_of in named], "%")
        if base in shared and name != base:
            column = f"{split}_accuracy"
            row["difference"] = _mean([r[name][column] - r[base][column] for r in named], "", "+")
        rows.append(row)
    seeds = ", ".join(str(run.config["seed"]) for run in runs)
    names = ", ".join(f"{run.lab}/{run.name}" for run in runs)
    title = f"Means over seeds {seeds} of {names}, with the standard error between seeds"
    return ReportTable(title, columns, rows)


def _by_name(run: StoredRun) -> dict[str, Row]:
    """Rows by a name that a model has at every seed; of a search the best trials."""
    if run.lab == "lab3":
        found = {n: row for n, row in run.results.items() if row.get("val_accuracy") is not None}
        return dict(sorted(found.items(), key=lambda item: -item[1]["val_accuracy"]))
    # What Lab 1 prunes is another model at another seed.
    steps = ((row.get("model") or row["step"], row.get("source"), row) for row in run.rows)
    return {name.removesuffix(f"/{source}"): row for name, source, row in steps}


def _mean(values: Sequence[float | None], unit: str, sign: str = "") -> str | None:
    """In percent.

    Example:
        >>> _mean([0.8, 0.9], "%")
        '85.0 ± 5.0 %'
        >>> _mean([0.8, None], "%") is None
        True
    """
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return None
    text = f"{sum(known) / len(known):{sign}.1f} ± {standard_error_of_mean(known):.1f}"
    return f"{text} {unit}".strip()

"""A run as it lies on disk: what figures and reports are made of."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.labs import classified
from lightning_adls.labs.folders import LABS, LOGS
from lightning_adls.report import Row

# Columns that are words, whatever a user called things; all others are numbers or JSON.
_TEXTS = {
    *("step", "model", "study", "search", "sampler", "method", "training", "source"),
    *("frac_width", "observer", "schedule", "state", "checkpoint", "strategy"),
}


@dataclass(frozen=True)
class StoredRun:
    """A run of a lab, finished or not.

    Attributes:
        folder: Where it lies.
        lab: Name of the lab.
        name: Of the run.
        config: Its arguments.
        summary: ``summary.json``; empty before a lab has written it.
        rows: ``results.csv``, numbers as numbers; None for empty cells.
    """

    folder: Path
    lab: str
    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, run: str | Path) -> "StoredRun":
        """Read a run.

        Args:
            run: Its folder, or ``<lab>/<run>`` within ``lightning_logs``.

        Raises:
            InputValueError: If there is no run of a lab, or one of an earlier version.
        """
        folder = next((path for path in (Path(run), LOGS / run) if path.is_dir()), None)
        if folder is None:
            there = [path.parent for path in LOGS.glob("*/*/results.csv")]
            known = [str(path) for path in there] + [f"{p.parent.name}/{p.name}" for p in there]
            meant = did_you_mean(str(run), known)
            example = meant or f"; give one such as {LOGS / 'lab1' / 'default'}."
            raise InputValueError(f"run={str(run)!r} is no folder{example}")
        for name in ("config.yaml", "results.csv"):
            if not (folder / name).is_file():
                raise InputValueError(f"run={str(run)!r} has no {name}: it is no run of a lab.")
        resolved = folder.resolve()
        lab = next((part for part in reversed(resolved.parts[:-1]) if part in LABS), None)
        summary = _json(folder / "summary.json")
        lab = summary.get("lab", lab)  # a lab of somebody's own says so there
        if lab is None:
            raise InputValueError(
                f"run={str(run)!r} is a run of none of {', '.join(LABS)}; a lab of your own writes "
                "what is read here by lightning_adls.labs.own_results.write_results."
            )
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        name = summary.get("run", config.get("run", resolved.name))
        rows = [] if lab == "lab4" else _rows(folder / "results.csv")
        if rows and "val_accuracy" not in rows[0]:
            raise InputValueError(
                f"run={str(run)!r} was written by an earlier version; the command that made it "
                "writes its rows anew and repeats nothing that is done."
            )
        return cls(folder, lab, name, config, summary, rows)

    def answers(self, split: str, step: str) -> classified.Answers | None:
        """What a step's model said of each row of a split, None if that is not known.

        Of the validation rows only those that are reported on, where they are halves.
        """
        # In a storage that runs share, names of studies begin with the run.
        for name in (step, f"{self.lab}/{self.name}/{step}"):
            path = self.folder / "predictions" / split / f"{name.replace('/', '_')}.csv"
            if path.is_file():
                found, among = classified.read(path), self.summary.get("reporting")
                if split != "val" or among is None:
                    return found
                return {row: found[row] for row in among}
        return None

    def count(self, split: str) -> int:
        """How many rows of a split accuracies are reported on."""
        among = self.summary.get("reporting") if split == "val" else None
        rows: int = self.summary["rows"][split] if among is None else len(among)
        return rows

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty before they are known."""
        return [str(name) for name in self.summary.get("classes", [])]

    @property
    def results(self) -> dict[str, Row]:
        """What the summary says of the models that were chosen, by name."""
        found: dict[str, Row] = self.summary.get("models", self.summary.get("results", {}))
        return found

    @property
    def subtitle(self) -> str:
        """Data set, model, rows and seed, in one line."""
        data, rows = self.config.get("data", {}), self.summary.get("rows", {})
        parts = [words_of_data(data)] if data else []
        parts.append(words_of_model(self.config["model"]))
        if rows:
            counts = [f"{rows[k]:,} {k}" for k in ("train", "val", "test") if rows.get(k)]
            parts.append(f"rows: {', '.join(counts)}")
        seeds = self.config.get("seeds", [self.config.get("seed", 0)])
        parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
        return "; ".join(parts)


def words_of_data(data: Row) -> str:
    """The data set's name, without the folders of this machine, and the length of its texts."""
    name = Path(str(data["dataset"])).name
    subset = f" {data['subset']}" if data.get("subset") else ""
    return f"{name}{subset}, {data['max_length']} tokens"


def words_of_model(model: Row) -> str:
    """The network: its checkpoint, or what it is made of."""
    made = model.get("init_args", model)
    kind = str(model.get("class_path", "network")).rpartition(".")[2]
    if made.get("checkpoint"):
        return f"{kind} {Path(str(made['checkpoint'])).name}"
    sizes = (
        f"{key.removeprefix('num_').replace('_', ' ')} {made[key]}"
        for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
        if made.get(key)
    )
    return ", ".join([kind, *sizes])


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: _cell(k, v) for k, v in row.items()} for row in csv.DictReader(file)]


def _cell(column: str, text: str) -> Any:
    if not text:
        return None
    if column in _TEXTS:
        return text
    return float(text) if text in ("nan", "inf", "-inf") else json.loads(text)

"""The rows of several experiments in one folder: CSV, JSON, figures and TensorBoard curves."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lightning_adls import report
from lightning_adls.bench.failures import one_line
from lightning_adls.bench.rows import Measurement, Row
from lightning_adls.bench.variants import Variant


class Results:
    """The rows found so far, written to disk with every addition.

    Args:
        folder: Where. What an earlier run of the same name has left there is removed.
        extra: Keys that rows have beside those of a ``Measurement``.
        environment: What measured; it is written beside the rows.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(
        self, folder: Path, extra: Sequence[str], environment: Mapping[str, object]
    ) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.environment = environment
        self._keys = ("part", "experiment", *Measurement.__dataclass_fields__, *extra)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._write()

    def add(self, part: str, experiment: str, rows: Iterable[Row], **shared: Any) -> None:
        """Add rows, and what they share under the extra keys."""
        for row in rows:
            known = {"part": part, "experiment": experiment, **row, **shared}
            assert known.keys() <= set(self._keys), known.keys() - set(self._keys)
            self.rows.append({key: known.get(key) for key in self._keys})
        self._write()

    def of(self, experiment: str, device: str | None = None) -> list[Row]:
        """The rows of an experiment that could be measured, on all devices or on one."""
        return [
            row
            for row in self.rows
            if row["experiment"] == experiment
            and row["error"] is None
            and device in (None, row["device"])
        ]

    def devices_of(self, experiment: str) -> list[str]:
        """Devices on which something of an experiment could be measured."""
        return list(dict.fromkeys(row["device"] for row in self.of(experiment)))

    def bars(
        self, title: str, groups: Mapping[str, Mapping[str, float]], y: str, *, log: bool = False
    ) -> None:
        """Draw bars, and log each as a point of TensorBoard; see ``report.draw_bars``."""
        if not groups:
            return
        name = _file_name(title)
        path = self.folder / f"{name}.png"
        report.draw_bars(path, groups, title=title, y_label=y, log=log)
        points: dict[str, list[tuple[float, float]]] = {
            f"{group} {bar}".replace("\n", " "): [(0, height)]
            for group, members in groups.items()
            for bar, height in members.items()
        }
        report.log_curves(self.folder / "tensorboard" / name, title, points)

    def lines(
        self, title: str, curves: Mapping[str, report.Curve], x: str, y: str, *, log: bool = False
    ) -> None:
        """Draw lines, and log each as a curve of TensorBoard; see ``report.draw_lines``."""
        if not curves:
            return
        name = _file_name(title)
        path = self.folder / f"{name}.png"
        report.draw_lines(path, curves, levels={}, title=title, x_label=x, y_label=y, log=log)
        report.log_curves(self.folder / "tensorboard" / name, title, curves)

    def _write(self) -> None:
        report.write_csv(self.folder / "results.csv", self.rows)
        summary = {"environment": self.environment, "results": self.rows}
        report.write_json(self.folder / "summary.json", summary)


def attempt(target: str, variant: Variant, device: str, work: Callable[[], Row]) -> Row:
    """A row of what ``work`` finds, or of why it fails."""
    row = Measurement(target, str(variant), device, variant.dtype, False, torch.get_num_threads())
    try:
        return {**asdict(row), **work()}
    except Exception as error:  # the other rows are still to be measured
        return {**asdict(row), "error": one_line(error)}


def _file_name(title: str) -> str:
    return title.replace(" ", "_").replace("+", "_").replace(",", "").replace(":", "")

"""The records of several experiments in one folder: CSV, JSON, figures and TensorBoard curves."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lightning_adls import figures, report
from lightning_adls.bench.failures import one_line
from lightning_adls.bench.records import Measurement, Record
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.threads import wait_policy

# In a line about what could not be measured.
MOST_TARGETS = 4


class StoredResults:
    """Records that were found, to be shown and drawn.

    Args:
        folder: Where the figures go.
        records: All of them.
        about: What measured, and what for; see ``Results``.

    Attributes:
        drawn: The figures that were drawn so far: their title and PNG file.
    """

    def __init__(self, folder: Path, records: Sequence[Record], about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.records = list(records)
        self.about = about
        self.drawn: list[tuple[str, Path]] = []

    def of(self, experiment: str, device: str | None = None) -> list[Record]:
        """The records of an experiment that could be measured, on all devices or on one."""
        return [
            record
            for record in self.records
            if record["experiment"] == experiment
            and record["error"] is None
            and device in (None, record["device"])
        ]

    def devices_of(self, experiment: str) -> list[str]:
        """Devices on which something of an experiment could be measured."""
        return list(dict.fromkeys(record["device"] for record in self.of(experiment)))

    def failures(self, *parts: str) -> list[str]:
        """What could not be measured in some parts: a line for each reason."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record["part"] in parts and record["error"] is not None:
                found.setdefault(record["error"], []).append(record)
        lines = []
        for error, records in found.items():
            targets = list(dict.fromkeys(record["target"] for record in records))
            names = ", ".join(targets[:MOST_TARGETS])
            if (more := len(targets) - MOST_TARGETS) > 0:
                names += f" and {more} more"
            devices = ", ".join(dict.fromkeys(record["device"] for record in records))
            lines.append(f"Not measured, {len(records)} x ({names} on {devices}): {error}")
        return lines

    @property
    def subtitle(self) -> str:
        """What measured, in a line."""
        machine = self.about.get("environment", {})
        shown = [machine.get(key) for key in ("CUDA devices", "cpu")]
        if threads := machine.get("torch threads"):
            shown.append(f"torch threads: {threads}")
        return "; ".join(text for text in shown if text and text != "none")

    def bars(
        self,
        name: str,
        title: str,
        groups: Mapping[str, Mapping[str, float]],
        y: str,
        *,
        log: bool = False,
    ) -> None:
        """Draw bars; see ``figures.draw_bars``. The files are called by the name."""
        if groups:
            path = self._path(name, title)
            figures.draw_bars(path, groups, title=title, y_label=y, subtitle=self.subtitle, log=log)

    def lines(
        self,
        name: str,
        title: str,
        curves: Mapping[str, report.Curve],
        x: str,
        y: str,
        *,
        log: bool = False,
    ) -> None:
        """Draw lines; see ``figures.draw_points``. The files are called by the name."""
        if curves:
            path = self._path(name, title)
            points = {k: [figures.Point(*point) for point in v] for k, v in curves.items()}
            figures.draw_points(
                path, points, title=title, x_label=x, y_label=y, subtitle=self.subtitle, log=log
            )

    def _path(self, name: str, title: str) -> Path:
        path = self.folder / f"{_file_name(name)}.png"
        self.drawn.append((title, path))
        return path


class Results(StoredResults):
    """The records found so far, written to disk with every addition; figures go to TensorBoard too.

    Args:
        folder: Where. What an earlier run of the same name has left there is removed.
        extra: Keys that records have beside those of a ``Measurement``.
        about: What measured, and what for; it stands before the records in ``summary.json``.
        heard: Is given each record that is added.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        extra: Sequence[str],
        about: Mapping[str, Any],
        heard: Callable[[Record], object] = lambda record: None,
    ) -> None:
        super().__init__(folder, [], about)
        self._heard = heard
        self._started = perf_counter()
        self._keys = ("part", "experiment", *Measurement.__dataclass_fields__, *extra)
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("*.png"), *folder.glob("*.pdf")):
            old.unlink()
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._write()

    def add(self, part: str, experiment: str, records: Iterable[Record], **shared: Any) -> None:
        """Add records, and what they share under the extra keys."""
        for record in records:
            known = {"part": part, "experiment": experiment, **record, **shared}
            assert known.keys() <= set(self._keys), known.keys() - set(self._keys)
            self.records.append({key: known.get(key) for key in self._keys})
            self._heard(known)
        self._write()

    def bars(
        self,
        name: str,
        title: str,
        groups: Mapping[str, Mapping[str, float]],
        y: str,
        *,
        log: bool = False,
    ) -> None:
        """Draw bars, and log each as a point of TensorBoard."""
        super().bars(name, title, groups, y, log=log)
        points: dict[str, list[tuple[float, float]]] = {
            f"{group} {bar}".replace("\n", " "): [(0, height)]
            for group, members in groups.items()
            for bar, height in members.items()
        }
        report.log_curves(self.folder / "tensorboard" / _file_name(name), name, points)

    def lines(
        self,
        name: str,
        title: str,
        curves: Mapping[str, report.Curve],
        x: str,
        y: str,
        *,
        log: bool = False,
    ) -> None:
        """Draw lines, and log each as a curve of TensorBoard."""
        super().lines(name, title, curves, x, y, log=log)
        report.log_curves(self.folder / "tensorboard" / _file_name(name), name, curves)

    def _write(self) -> None:
        report.write_csv(self.folder / "results.csv", self.records)
        seconds = round(perf_counter() - self._started, 1)
        summary = {**self.about, "total_seconds": seconds, "results": self.records}
        report.write_json(self.folder / "summary.json", summary)


def attempt(
    target: str, variant: Variant, device: str, work: Callable[[], Mapping[str, Any]]
) -> Record:
    """A record of what ``work`` finds, or of why it fails."""
    measurement = Measurement(
        target,
        str(variant),
        device,
        variant.dtype,
        training=False,
        threads=torch.get_num_threads(),
        waiting=wait_policy(),
    )
    known = asdict(measurement)
    try:
        return {**known, **work()}
    except Exception as error:  # the others are still to be measured
        return {**known, "error": one_line(error)}


def _file_name(name: str) -> str:
    return name.replace(" ", "_").replace("+", "_").replace(",", "").replace(":", "")

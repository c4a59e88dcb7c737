"""What low_bits.py has found so far, a line of JSON for each finished job, and what is left."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from low_bits_jobs import Job, Settings, compute

from lightning_adls.engines import Call, Lost, Shared


class Records:
    """Results of jobs, in a file that the same command goes on with.

    Lines of other settings stay in the file and are not looked at.

    Args:
        path: Of the file.
        settings: Says what a result depends on.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # its writer was killed
            os.truncate(path, sum(map(len, lines[:-1])))
            del lines[-1]
        known = [json.loads(line) for line in lines]
        self._by_told = {_key(each["told"]): each["found"] for each in known}

    def of(self, job: Job) -> dict[str, Any] | None:
        """What a job found; None if it did not end, or failed."""
        found = self._by_told.get(_key(self.settings.trainings[job.data].decides(job)))
        return None if found is None or "error" in found else found

    def has(self, job: Job) -> bool:
        """Whether a job is finished, and what it leaves for others is there."""
        return self.of(job) is not None and (job.is_row or self.settings.file(job).exists())

    def add(self, job: Job, found: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        told = self.settings.trainings[job.data].decides(job)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"told": told, "found": found}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._by_told[_key(told)] = found


def _key(told: dict[str, Any]) -> str:
    return json.dumps(told, sort_keys=True)


class Schedule:
    """The driver of an engine: gives it what is left to do, in order, and records what is done.

    Args:
        settings: Shared by all jobs.
        records: Where results go.
        jobs: In the order of their worth. Those that no unfinished row needs are left out.
        minutes: After so many nothing is begun.
    """

    def __init__(
        self, settings: Settings, records: Records, jobs: Sequence[Job], minutes: float
    ) -> None:
        self.records = records
        wanted = {job for job in jobs if job.is_row and not records.has(job)}
        wanted |= {need for row in wanted for need in row.needs if not records.has(need)}
        self.left = [job for job in jobs if job in wanted]
        self.failed = 0
        self._shared = Shared(settings)
        self.total, self._ended = len(self.left), 0
        self._until = monotonic() + 60 * minutes

    def next(self) -> Call | None:
        """The first job whose needs are there."""
        if monotonic() >= self._until:
            return None
        for job in self.left:
            if all(map(self.records.has, job.needs)):
                self.left.remove(job)
                return Call(str(job), compute, self._shared, job)
        return None

    def began(self, call: Call, worker: int) -> None:
        """Nothing is said of it."""

    def heard(self, call: Call, message: Any) -> None:
        """Jobs say nothing."""

    def ended(self, call: Call, result: Any) -> None:
        """Record a result and say it in a line."""
        if isinstance(result, Lost):
            result = {"error": f"its process died: {result.reason}"}
        self.records.add(call.argument, result)
        self._ended += 1
        self.failed += "error" in result
        said = result.get("error", "").strip().rpartition("\n")[2] or _said(result)
        print(f"{self._ended}/{self.total} {call.name}: {said}", flush=True)


def _said(found: dict[str, Any]) -> str:
    shown = {
        name: found[name] for name in ("val_accuracy", "test_accuracy", "seconds") if name in found
    }
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())

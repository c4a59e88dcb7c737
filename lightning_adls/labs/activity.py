"""What the last call of a run does or did, for who asks from another process."""

import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from lightning_adls.process import machine, started
from lightning_adls.report import write_json

_FILE = "activity.json"


class RunningStep(TypedDict):
    """A step that is being done."""

    worker: int
    since: float  # seconds since 1970


class Call(TypedDict):
    """A call of a run."""

    host: str
    pid: int
    machine: str  # what pid counts within
    started: int | None  # when the process did, in ticks of its machine
    begun: float  # seconds since 1970
    ended: float | None  # None also if the process was killed
    complete: bool  # whether it came to its end
    planned: list[str]  # steps, as far as they were known
    running: dict[str, RunningStep]


class Activity:
    """Keeps ``activity.json`` of a run, for the process that owns the folder.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._begun = False
        pid = os.getpid()
        self._call = Call(
            host=socket.gethostname(),
            pid=pid,
            machine=machine(),
            started=started(pid),
            begun=time.time(),
            ended=None,
            complete=False,
            planned=[],
            running={},
        )

    def plan(self, steps: Iterable[str]) -> None:
        """Steps that this call will do, or finds done."""
        self._call["planned"] = list(dict.fromkeys([*self._call["planned"], *steps]))

    def begin(self) -> None:
        """The call begins to work: from now on the run is its own."""
        self._begun = True
        self._write()

    def began(self, step: str, worker: int = 1) -> None:
        """A worker does a step."""
        self._call["running"][step] = RunningStep(worker=worker, since=time.time())
        self._write()

    def ended(self, step: str) -> None:
        """A step is done, as the run's rows say, too."""
        self._call["running"].pop(step, None)

    def end(self, complete: bool) -> None:
        """The call ends. One that was refused, or stopped before it did anything, says nothing.

        Args:
            complete: Whether the run has all that the call asked for.
        """
        if complete or self._begun:
            self._call["ended"], self._call["complete"] = time.time(), complete
            self._write()

    def _write(self) -> None:
        write_json(self._path, self._call)


def last_call(folder: Path) -> Call | None:
    """The last call of a run that did something; None before there was one."""
    path = folder / _FILE
    if not path.is_file():
        return None
    call: Call = json.loads(path.read_text(encoding="utf-8"))
    return call

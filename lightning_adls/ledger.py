"""The finished steps of a run, kept so that a run that is called again repeats none of them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_adls.locks import exclusive
from lightning_adls.report import write_json
from lightning_adls.settings import refuse_changes

Row = dict[str, Any]


class Ledger:
    """What each finished step of a run found, by the step's name; made by :func:`open_ledger`.

    Attributes:
        rows: By name, in the order in which the steps finished.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))
        self.rows: dict[str, Row] = {}
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            refuse_changes("Ledger", str(path.parent), content["settings"], self._settings)
            self.rows = content["rows"]

    def once(self, name: str, work: Callable[[], Row]) -> Row:
        """The row of a step: from an earlier call if it finished then, or else from ``work``.

        Args:
            name: Of the step within the run.
            work: Does the step and returns what JSON can hold.
        """
        if name not in self.rows:
            self.rows[name] = json.loads(json.dumps(work()))
            write_json(self._path, {"settings": self._settings, "rows": self.rows})
        return self.rows[name]


@contextmanager
def open_ledger(path: str | Path, settings: Mapping[str, Any]) -> Iterator[Ledger]:
    """The ledger of a run, which this process alone writes.

    Args:
        path: Of its JSON file.
        settings: Everything that decides what the steps find; values that JSON can hold.

    Raises:
        ValueError: If the file was written with other settings (the message says what differs) or
            another process has it open.
    """
    with exclusive(Path(f"{path}.lock")):
        yield Ledger(Path(path), settings)

"""The finished steps of a run, kept so that a run that is called again repeats none of them."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lightning_adls.errors import InputError
from lightning_adls.report import write_json

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


@contextmanager
def exclusive(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that no other process has open in this way; the hold dies with the process.

    Raises:
        ValueError: If another process has it open.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"exclusive: {path} belongs to a run that is going on in another process; "
                "wait for it to end."
            ) from error
        yield file


def refuse_changes(who: str, what: str, before: Any, now: Any) -> None:
    """Refuse to continue with other settings.

    Raises:
        ValueError: If they differ; the message says in what.
    """
    if before != now:
        changes = "; ".join(differences(before, now))
        raise InputError(
            f"{who}: {what} was made with other settings ({changes}); restore them, or give "
            "another --run."
        )


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """What changed between two nested settings, one sentence each.

    Example:
        >>> differences({"seed": 0, "data": {"rows": 5}}, {"seed": 1, "data": {"rows": 5}})
        ['seed was 0, now 1']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in dict.fromkeys([*before, *now])
            for difference in differences(
                before.get(key), now.get(key), f"{at}.{key}" if at else str(key)
            )
        ]
    return [] if before == now else [f"{at} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."

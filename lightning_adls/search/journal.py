"""A journal file that one process writes, whole after whatever befell that process or its disk."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._storage import JournalOperation

from lightning_adls.errors import InputValueError
from lightning_adls.search.lease import PREFIX

_PROBE_BYTES = 65536  # a trial of a large space takes less
# What is said of a trial before it ends. Without its end it does not count and is run again, and
# who writes its end to the disk writes all of the file before it.
_OF_A_RUNNING_TRIAL = {
    JournalOperation.CREATE_TRIAL,
    JournalOperation.SET_TRIAL_PARAM,
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
    JournalOperation.SET_TRIAL_USER_ATTR,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
}


class WholeLines(JournalFileBackend):
    """A journal that a failed write leaves as it was.

    A full disk may take the first half of a line, which the next line would be appended to.

    What must last is on the disk when :meth:`append_logs` returns: studies, what is noted of them,
    and how trials ended. Lines of a trial that runs are only given to the system, which keeps them
    if this process is killed; a power cut may lose them, and the trial is run again.

    Args:
        path: Of the file, which is made; its folder exists, and no other process writes it.

    Raises:
        InputValueError: If the file cannot be written, now or later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._mend()
        except OSError as error:
            raise InputValueError(
                f"open_storage: {path} cannot be written: {error.strerror}."
            ) from error
        self._lock_file = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._lock_file)

    def _mend(self) -> None:
        """Remove what a killed process or a power cut leaves; see if there is room."""
        self._path.touch()
        size = _whole(self._path.read_bytes())
        os.truncate(self._path, size)
        Path(f"{self._path}.lock").unlink(missing_ok=True)
        try:
            with self._path.open("ab") as file:
                # Without an end of line, so that it is no more than a torn line if we are killed.
                file.write(b" " * _PROBE_BYTES)
        finally:
            os.truncate(self._path, size)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, or none of them."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._lock_file.acquire()
        try:
            size = self._path.stat().st_size
            try:
                with self._path.open("ab") as file:
                    file.write(lines)
                    if any(_lasts(log) for log in logs):
                        file.flush()
                        os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self._path, size)
                raise InputValueError(
                    f"open_storage: {self._path} cannot be written any more: {error.strerror}; "
                    "what is in it stays. Make room, and the same command continues."
                ) from error
        finally:
            self._lock_file.release()


def _lasts(log: Mapping[str, Any]) -> bool:
    """Whether a line must be on the disk before anybody relies on it."""
    if log["op_code"] in _OF_A_RUNNING_TRIAL:
        return False
    # A lease is renewed all the time, and void when its process or machine has ended.
    return not any(name.startswith(PREFIX) for name in log.get("user_attr", ()))


def _whole(journal: bytes) -> int:
    """How many bytes of a journal can be kept.

    The last line may be torn. A power cut may have left any part of what was written since the last
    :func:`fsync <os.fsync>` that came to its end; the line that the one after it was for may be
    there, and earlier ones not. What cannot be read there is the end. Lines before that were on the
    disk: if they are damaged, nothing is removed, so that reading them says so.
    """
    end = journal.rfind(b"\n") + 1
    kept, lasting = end, 0
    while end and lasting < 2:
        begin = journal.rfind(b"\n", 0, end - 1) + 1
        try:
            lasting += _lasts(json.loads(journal[begin:end]))
        except (ValueError, TypeError, KeyError):  # no JSON, or not a line of a journal
            kept = begin
        end = begin
    return kept

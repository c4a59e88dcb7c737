"""A journal file that one process writes, whole after whatever befell that process or its disk."""

import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from lightning_adls.errors import InputValueError

_PROBE_BYTES = 65536  # a trial of a large space takes less


class WholeLines(JournalFileBackend):
    """A journal that a failed write leaves as it was.

    A full disk may take the first half of a line, which the next line would be appended to.

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
        super().__init__(str(path))

    def _mend(self) -> None:
        """Remove what a killed process leaves, a torn line and a lock; see if there is room."""
        self._path.touch()
        size = self._path.read_bytes().rfind(b"\n") + 1
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
        size = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self._path, size)
            raise InputValueError(
                f"open_storage: {self._path} cannot be written any more: {error.strerror}; what is "
                "in it stays. Make room, and the same command continues."
            ) from error

"""Studies as they stand, read and left as they are, also while another process runs them."""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend

from lightning_adls.errors import InputValueError


def read_storage(where: str | Path) -> BaseStorage:
    """A storage that is only read: a URL, or a journal file.

    Raises:
        InputValueError: If it cannot be read.
    """
    if "://" in str(where):
        return _database(str(where))
    path = Path(where)
    return JournalStorage(_Journal(path.read_bytes() if path.is_file() else b""))


class _Journal(BaseJournalBackend):
    """The lines of a journal file. Optuna's own backend makes a file that is not there.

    Args:
        content: Of the file; a last line that is not whole is being written, or never was.
    """

    def __init__(self, content: bytes) -> None:
        self._lines = content[: content.rfind(b"\n") + 1].splitlines()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise NotImplementedError("This journal is only read.")


def _database(where: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise InputValueError("read_storage: the storage is no URL of a database.") from error
    # PostgreSQL refuses to write then; Optuna writes nothing by itself where its tables are.
    options: dict[str, Any] = {"execution_options": {"postgresql_readonly": True}}
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "").absolute()
        options = {"creator": lambda: sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)}
    try:
        return RDBStorage(where, options, skip_table_creation=True)
    except (OptunaError, SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        shown = url.render_as_string(hide_password=True)
        # Optuna says that something went wrong, and its cause says what.
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise InputValueError(f"read_storage: {shown} cannot be read: {reason}.") from error

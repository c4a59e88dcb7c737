"""Where studies are kept: a journal file of one process, or a database of several."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.locks import exclusive

# What databases say of a table or a row that another process has just made.
_MADE_BY_ANOTHER = ("already exists", "UNIQUE constraint", "duplicate key")
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds
_DRIVERS = {"postgresql": "pip install psycopg2-binary", "mysql": "pip install mysqlclient"}


@contextmanager
def open_storage(where: str | Path) -> Iterator[BaseStorage]:
    """A storage by URL (``postgresql://...``), or a journal file that this process alone writes.

    The folder of a file is made. A journal file is made whole first: a process killed while it
    wrote leaves a torn last line, which the next append would spoil, and a lock that nobody
    releases.

    Raises:
        ValueError: If another process has the journal file open, its folder cannot be made, the
            URL is wrong or the database cannot be reached.
        MissingPackageError: If the database needs a driver that is not installed.
    """
    if "://" in str(where):
        yield _database(str(where))
        return
    path = Path(where)
    _make_folder(path)
    with exclusive(f"{path}.owner"):
        path.touch()
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        Path(f"{path}.lock").unlink(missing_ok=True)
        yield JournalStorage(JournalFileBackend(str(path)))


def _database(where: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise InputValueError(
            "open_storage: the storage is no URL of a database; it has the form "
            "postgresql://user:password@host/name or sqlite:///file."
        ) from error
    shown = url.render_as_string(hide_password=True)
    dialect = url.get_backend_name()
    if dialect == "sqlite" and url.database and url.database != ":memory:":
        _make_folder(Path(url.database))
    try:
        return _created(where)
    except ImportError as error:
        remedy = _DRIVERS.get(dialect, f"install the one that SQLAlchemy names for {dialect}")
        raise MissingPackageError(
            f"open_storage: {shown} needs a database driver that is not installed; {remedy}."
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        # The first line says what; the others show statements of SQL and a link.
        reason = str(error).partition("\n")[0]
        raise InputValueError(f"open_storage: {shown} cannot be opened: {reason}.") from error


def _created(where: str) -> BaseStorage:
    """Open a database; of processes that make its tables at the same moment only one can."""
    from sqlalchemy.exc import SQLAlchemyError

    for pause in _PAUSES:
        try:
            return optuna.storages.get_storage(where)
        except SQLAlchemyError as error:
            if not any(sign in str(error) for sign in _MADE_BY_ANOTHER):
                raise
            time.sleep(pause)
    return optuna.storages.get_storage(where)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputValueError(
            f"open_storage: the folder of {path} cannot be made: {error.strerror}."
        ) from error

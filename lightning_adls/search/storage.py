"""Where studies are kept: a journal file of one process, or a database of several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_adls.errors import InputError, MissingPackageError
from lightning_adls.locks import exclusive

_DRIVERS = {"postgresql": "pip install psycopg2-binary", "mysql": "pip install mysqlclient"}


@contextmanager
def open_storage(where: str | Path) -> Iterator[BaseStorage]:
    """A storage by URL (``postgresql://...``), or a journal file that this process alone writes.

    The folder of a file is made. A journal file is made whole first: a process killed while it
    wrote leaves a torn last line, which the next append would spoil, and a lock that nobody
    releases.

    Raises:
        InputError: If another process has the journal file open, its folder cannot be made, the
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
        raise InputError(
            "open_storage: the storage is no URL of a database; it has the form "
            "postgresql://user:password@host/name or sqlite:///file."
        ) from error
    shown = url.render_as_string(hide_password=True)
    dialect = url.get_backend_name()
    if dialect == "sqlite" and url.database and url.database != ":memory:":
        _make_folder(Path(url.database))
    try:
        return optuna.storages.get_storage(where)
    except ImportError as error:
        remedy = _DRIVERS.get(dialect, f"install the one that SQLAlchemy names for {dialect}")
        raise MissingPackageError(
            f"open_storage: {shown} needs a database driver that is not installed; {remedy}."
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        # The first line says what; the others show statements of SQL and a link.
        reason = str(error).partition("\n")[0]
        raise InputError(f"open_storage: {shown} cannot be opened: {reason}.") from error


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"open_storage: the folder of {path} cannot be made: {error.strerror}."
        ) from error

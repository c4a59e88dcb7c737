"""Where studies are kept: a journal file of one process, or a database of several."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.locks import exclusive
from lightning_adls.search.journal import WholeLines
from lightning_adls.search.reconnecting import ReconnectingStorage, reason_of

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

# What databases say of a table or a row that another process has just made.
_MADE_BY_ANOTHER = ("already exists", "UNIQUE constraint", "duplicate key")
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds
_DRIVERS = {
    "postgresql": "pip install 'psycopg[binary]>=3.2'",
    "mysql": "pip install mysqlclient",
}
# Of a connection that is cut without a word: a minute, where the system would wait for hours.
_CONNECTION = {
    "postgresql": {
        "connect_timeout": 10,  # seconds
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,  # milliseconds
    },
    "mysql": {"connect_timeout": 10},
}


@contextmanager
def open_storage(where: str | Path) -> Iterator[BaseStorage]:
    """A storage by URL (``postgresql://...``), or a journal file that this process alone writes.

    The folder of a file is made. A journal file is made whole first: a process killed while it
    wrote leaves a torn last line, which the next append would spoil, and a lock that nobody
    releases. A database may be away for five minutes later on (:class:`ReconnectingStorage`), but
    not now.

    Raises:
        ValueError: If another process has the journal file open, it or its folder cannot be
            written, the URL is wrong or the database cannot be reached.
        MissingPackageError: If the database needs a driver that is not installed.
    """
    if "://" in str(where):
        database = _database(str(where))
        try:
            yield database
        finally:
            database.close()
        return
    path = Path(where)
    _make_folder(path)
    with exclusive(f"{path}.owner"):
        yield JournalStorage(WholeLines(path))


def _database(where: str) -> ReconnectingStorage:
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
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # the default depends on SQLAlchemy
    if dialect == "sqlite" and url.database and url.database != ":memory:":
        _make_folder(Path(url.database))
    try:
        return ReconnectingStorage(_created(url), shown)
    except ImportError as error:
        remedy = _DRIVERS.get(dialect, f"install the one that SQLAlchemy names for {dialect}")
        raise MissingPackageError(
            f"open_storage: {shown} needs a database driver that is not installed; {remedy}."
        ) from error
    except (SQLAlchemyError, StorageInternalError, ValueError, RuntimeError) as error:
        raise InputValueError(
            f"open_storage: {shown} cannot be opened: {reason_of(error)}."
        ) from error


def _created(url: "URL") -> RDBStorage:
    """Open a database; of processes that make its tables at the same moment only one can."""
    from sqlalchemy.exc import SQLAlchemyError

    for pause in _PAUSES:
        try:
            return _opened(url)
        except (SQLAlchemyError, StorageInternalError) as error:
            if not any(sign in reason_of(error) for sign in _MADE_BY_ANOTHER):
                raise
            time.sleep(pause)
    return _opened(url)


def _opened(url: "URL") -> RDBStorage:
    given = _CONNECTION.get(url.get_backend_name(), {})
    arguments = {name: value for name, value in given.items() if name not in url.query}
    # A connection that was lost since its last use is noticed before the next.
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": arguments}
    # Optuna fills in what stands in braces.
    where = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    return RDBStorage(where, engine_kwargs=options)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputValueError(
            f"open_storage: the folder of {path} cannot be made: {error.strerror}."
        ) from error

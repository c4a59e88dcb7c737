"""Files that belong to one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_adls.errors import InputValueError


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold a lock that no other process holds; it ends with the process, however that ends.

    Args:
        path: Of the lock's own file, in a folder that exists.

    Raises:
        InputValueError: If another process holds it.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputValueError(
            f"exclusive: {path} belongs to a run that is going on in another process; wait for it "
            "to end."
        ) from error
    try:
        yield
    finally:
        lock.release()

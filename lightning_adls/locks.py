"""Files that belong to one process at a time."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_adls.errors import InputValueError


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold a lock that no other process holds; it ends with the process, however that ends.

    Args:
        path: Of the lock's own file, in a folder that exists. It says who holds it.

    Raises:
        InputValueError: If another process holds it, which the message names, or the file cannot
            be written.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputValueError(
            f"exclusive: {path} belongs to a run that is going on in {_holder(Path(path))}; wait "
            "for it to end."
        ) from error
    except OSError as error:
        raise InputValueError(f"exclusive: {path} cannot be written: {error.strerror}.") from error
    try:
        with suppress(OSError):  # a full disk, or a system on which a locked file cannot be read
            Path(path).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        written, holder = path.stat().st_mtime, path.read_text()
    except OSError:
        return "another process"
    if not holder:  # not written yet
        return "another process"
    return f"{holder} (since {max(0.0, time.time() - written):.0f} s)"

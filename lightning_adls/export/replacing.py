"""A file that is there as a whole, or as it was before."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_adls.errors import InputValueError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write to; what is there afterwards takes the place of ``path``.

    An older file stays as it is if anything is raised. The folder is made if it is missing.

    Raises:
        ValueError: If the file cannot be written.
    """
    # The ending stays, by which some writers know what to write.
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputValueError(
            f"export: {str(path)!r} cannot be written: {error.strerror}."
        ) from error
    finally:
        part.unlink(missing_ok=True)

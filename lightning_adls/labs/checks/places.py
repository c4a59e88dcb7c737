"""Where runs are written, and where data and networks come from."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightning_adls.hub import asking_hub
from lightning_adls.labs.checks.finding import Finding
from lightning_adls.labs.configs import CONFIGS
from lightning_adls.labs.folders import LOGS

# A run on the built-in reviews takes some tens of megabytes, one of BERT-base some gigabytes.
_LEAST_GIB, _ENOUGH_GIB = 0.5, 5.0


def check_places() -> Iterator[Finding]:
    """Of the folder that this process is in."""
    if (CONFIGS / "train.yaml").is_file():
        yield Finding("ok", f"Defaults of the commands: {CONFIGS}")
    else:
        yield Finding("problem", f"{CONFIGS} lacks the defaults of the commands; install again")
    logs = LOGS.absolute()
    yield from check_writable(logs)
    yield from check_room(shutil.disk_usage(existing(logs)).free / 2**30, logs)
    with asking_hub() as reason:
        yield from check_hub(reason)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def check_writable(folder: Path) -> Iterator[Finding]:
    """Whether runs can be written there; nothing is left behind."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)):
            pass
    except OSError as error:
        yield Finding(
            "problem", f"Runs cannot be written into {folder} ({error.strerror}); go elsewhere"
        )
    else:
        yield Finding("ok", f"Runs are written into {folder}")


def check_room(free_gib: float, folder: Path) -> Iterator[Finding]:
    """Whether there is room for a run.

    Args:
        free_gib: GiB that are free there.
        folder: Where.
    """
    room = f"{free_gib:.1f} GiB are free for {folder}"
    if free_gib < _LEAST_GIB:
        yield Finding("problem", f"{room}, which a run may need; make room")
    elif free_gib < _ENOUGH_GIB:
        yield Finding("note", f"{room}, too few for many checkpoints of a large network")
    else:
        yield Finding("ok", room)


def check_hub(reason: str) -> Iterator[Finding]:
    """Whether data sets and networks can be fetched.

    Args:
        reason: Why the hub cannot be asked; empty where it can.
    """
    if reason:
        yield Finding(
            "note",
            f"Offline: {reason}. Labs run on the built-in reviews; other data and networks come "
            "from files and folders, or from what was fetched earlier",
        )
    else:
        yield Finding("ok", "The Hugging Face hub answers")

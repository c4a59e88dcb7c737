"""Where runs lie."""

from pathlib import Path

from lightning_adls.errors import InputValueError

LOGS = Path("lightning_logs")
LABS = ("lab0", "lab1", "lab2", "lab3", "lab4")


def folder_of(lab: str, name: str) -> Path:
    """Where the run of this name lies.

    Raises:
        ValueError: If that is outside of the lab's own folder.
    """
    if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputValueError(f"{lab}: run={name!r} is no name of a folder in {LOGS / lab}.")
    return LOGS / lab / name

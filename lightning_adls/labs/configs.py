"""The YAML files of ``configs/``: at the top of a checkout, and in the package once installed."""

from collections.abc import Sequence
from pathlib import Path

import lightning_adls

_PACKAGE = Path(lightning_adls.__file__).parent
_INSTALLED = _PACKAGE / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def in_package(arguments: Sequence[str]) -> list[str]:
    """A command line in which ``configs/...`` is found wherever the user is.

    Example:
        >>> Path(in_package(["--config", "configs/lab3_low_bit.yaml"])[1]).is_file()
        True
    """
    return [_found(argument) for argument in arguments]


def _found(argument: str) -> str:
    """The argument, or ``--option=`` and its value, with the path of a file of the package.

    A file of the user's own that has this name wins.
    """
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.parts[:1] != ("configs",) or path.exists():
        return argument
    ours = CONFIGS.joinpath(*path.parts[1:])
    return f"{option}{equals}{ours}" if ours.is_file() else argument

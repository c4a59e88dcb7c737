"""Starts a command: what can be answered without torch is, before its module is imported."""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_adls.commands.table import COMMANDS, defaults_of, source_of
from lightning_adls.labs import short_help
from lightning_adls.labs.configs import in_package
from lightning_adls.labs.ending import piping


def start(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command to its end.

    Args:
        name: One of ``COMMANDS``.
        arguments: Its command line; by default that of this process, without its first word.
    """
    given = in_package(sys.argv[1:] if arguments is None else arguments)
    with piping():
        if COMMANDS[name].config is not None:
            short_help.answer(source_of(name), given, defaults_of(name))
        import_module(f"lightning_adls.commands.{name}").main(given)

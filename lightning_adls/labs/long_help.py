"""All about one option, or about all of them: ``--help.NAME`` and ``--help.all``."""

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.labs.short_help import ALL

_OPTION = "--help."


def explain(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """End with the help of an option if that is asked for.

    Args:
        parser: Of the script, or of its subcommand; its own help is not the same afterwards.
        arguments: The command line.

    Raises:
        InputValueError: If there is no such option.
    """
    for argument in arguments:
        if argument.startswith(_OPTION):
            _keep(parser, argument.removeprefix(_OPTION))
            parser.print_help()
            sys.exit(0)


def _keep(parser: ArgumentParser, name: str) -> None:
    """Leave out of a parser's help what is not about one option."""
    if name == ALL:
        return
    kept = [
        action
        for action in parser._actions
        if action.dest == name or action.dest.startswith(f"{name}.")
    ]
    if not kept:
        meant = did_you_mean(name, [action.dest for action in parser._actions])
        raise InputValueError(f"{_OPTION}{name}: --{name} is no option{meant or '.'}")
    for action in parser._actions:
        if action not in kept:
            action.help = SUPPRESS
    parser.usage, parser.description = SUPPRESS, None
    # Where defaults come from.
    groups: Any = parser._action_groups  # a list, which the type does not say
    groups.remove(parser._default_config_files_group)

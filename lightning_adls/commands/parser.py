"""The command line of commands that take a few arguments and have no YAML file."""

import argparse
from typing import NoReturn

from lightning_adls.labs.calling import call
from lightning_adls.labs.ending import refuse


class CommandParser(argparse.ArgumentParser):
    """argparse, which says what the user typed, and what is wrong in one line.

    Args:
        usage: The arguments, as the help shows them.
        description: What the command does.
    """

    def __init__(self, usage: str, description: str) -> None:
        super().__init__(
            usage=call().line(usage).replace("%", "%%"),
            description=description,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        refuse(f"{call().name}: {message}; --help shows the arguments.")

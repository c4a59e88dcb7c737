"""The program ``adls``: which command is meant, before anything large is imported."""

import sys

import lightning_adls
from lightning_adls.commands.table import COMMANDS
from lightning_adls.errors import did_you_mean
from lightning_adls.labs.ending import piping, refuse


def main() -> None:
    """Run the command that the command line names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    with piping():
        if name in ("-h", "--help"):
            print(help_text())
        elif name == "--version":
            print(f"lightning_adls {lightning_adls.__version__}")
        elif name in COMMANDS:
            # Not before, because the help of all commands needs no YAML.
            from lightning_adls.commands.start import start

            start(name, arguments)
        else:
            meant = did_you_mean(name, COMMANDS) or "; adls --help lists them."
            refuse(f"{name!r} is no command of adls{meant}")


def help_text() -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: adls COMMAND [options]",
            "",
            "Compress transformers with PyTorch Lightning.",
            "",
            "commands:",
            *lines,
            "",
            "adls COMMAND --help shows the options of one; adls --version the version.",
            "Runs are written into lightning_logs of the folder you are in.",
        ]
    )

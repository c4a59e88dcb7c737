"""How the user started this process: what help and messages tell him to type."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import lightning_adls

# The Makefile sets it for what it starts.
MAKE = "LIGHTNING_ADLS_MAKE"
_MODULE = Path(lightning_adls.__file__).parent / "__main__.py"
# A line of a docstring that shows a command, which may go on in the next one.
_EXAMPLE = re.compile(r"^( +)adls \w+((?:[^\\\n#]|\\\n)*)(#.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Call:
    """A program and what it was given.

    Args:
        words: What stands before the arguments: ``adls lab3``, ``make lab3`` or
            ``python scripts/lab3_mixed_precision.py``.
        name: What messages call it.
        arguments: The others.
        by_make: Whether arguments stand in ``ARGS``.
    """

    words: str
    name: str
    arguments: Sequence[str] = ()
    by_make: bool = False

    def line(self, arguments: str | Sequence[str]) -> str:
        """What to type to give it other arguments.

        Example:
            >>> print(Call("make lab3", "", by_make=True).line(["--only", "[Log, Full]"]))
            make lab3 ARGS="--only '[Log, Full]'"
        """
        text = arguments if isinstance(arguments, str) else shlex.join(arguments)
        if not text:
            return self.words
        return f"{self.words} {_for_make(text) if self.by_make else text}"

    def with_options(self, options: Mapping[str, str]) -> str:
        """What to type to give it the same arguments, but for these options.

        Example:
            >>> Call("adls lab4", "", ["--run=a", "--seed", "1"]).with_options({"--run": "b"})
            'adls lab4 --seed 1 --run b'
        """
        kept: list[str] = []
        follows = False  # a value of an option that is left out
        for argument in self.arguments:
            name, equals, _ = argument.partition("=")
            if name in options:
                follows = not equals
                continue
            if not follows:
                kept.append(argument)
            follows = False
        return self.line([*kept, *chain(*options.items())])

    def examples(self, text: str) -> str:
        """A text whose examples say ``adls ...``, with what this user types in its place.

        Example:
            >>> Call("make lab1", "", by_make=True).examples("  adls lab1 --run a")
            "  make lab1 ARGS='--run a'"
        """

        def shown(found: re.Match[str]) -> str:
            indent, arguments, comment = found.groups("")
            return f"{indent}{self.line(arguments.strip())}{comment and f'  {comment}'}"

        return _EXAMPLE.sub(shown, text)


def call() -> Call:
    """How this process was started."""
    program, given = Path(sys.argv[0]), sys.argv[1:]
    by_module = program == _MODULE
    if not by_module and program.name not in ("adls", "adls.exe"):
        return Call(f"{_python()} {shlex.quote(sys.argv[0])}", program.name, given)
    command, *arguments = given or [""]
    if os.environ.get(MAKE):
        words = f"make {command}"
    else:
        words = f"{f'{_python()} -m lightning_adls' if by_module else 'adls'} {command}".rstrip()
    return Call(words, words, arguments, by_make=MAKE in os.environ)


def _python() -> str:
    return Path(sys.executable).name


def _for_make(text: str) -> str:
    """``ARGS`` in quotes, by the rules of the shell and of make, the shortest that are right."""
    text = re.sub(r"\\\n *", "", text)
    if "'" in text and not set(text) & set("$`\\!"):
        return 'ARGS="' + text.replace('"', '\\"') + '"'
    return "ARGS=" + shlex.quote(text.replace("$", "$$"))

"""What a script can say without torch: its short help, what is wrong with options, a run's status.

The help is read from the source and the YAML of a lab, or of a script: the parameters and docstring
of the function that takes ``config_yaml``, or ``OPTIONS``, where another command line is made of
them.
"""

import argparse
import ast
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse

from lightning_adls.errors import did_you_mean
from lightning_adls.labs.calling import Call, call
from lightning_adls.labs.ending import piping, refuse, refusing
from lightning_adls.labs.folders import LABS
from lightning_adls.labs.status import status

ALL = "all"  # --help.all
# What one changes first, in this order.
_FIRST = (
    *("run", "trials", "only", "strategy", "budget_bits", "seed", "data", "model", "trainer"),
    *("ckpt_path", "weights", "config"),
)
_OF_EVERY_SCRIPT = {
    "config": "A YAML file with arguments; what the command line says wins.",
    "print_config": "Print all arguments as YAML and end.",
}
_OF_LABS = {
    "status": "Tell how far the run is that --run names, and end; nothing of it is changed.",
}
_FLAGS = ("print_config", "status")


def defaults_of(script: str | Path) -> Path:
    """The YAML file of a script, which is read before ``--config`` and the arguments."""
    path = Path(script).resolve()
    return path.parent.parent / "configs" / f"{path.stem}.yaml"


def answer(
    source: str | Path, arguments: Sequence[str] | None = None, defaults: Path | None = None
) -> None:
    """End with the short help or a status if it is asked for, or where an option is not there.

    Otherwise nothing happens: only the first part of each option's name is known here.

    Args:
        source: Path of the script that was started, or of the module of a lab.
        arguments: The command line; by default that of this process.
        defaults: Its YAML file; by default that of a script, see :func:`defaults_of`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    described = read(source, defaults or defaults_of(source), call())
    with piping():
        if {"-h", "--help"} & {*arguments}:
            print(described.help(), end="")
            sys.exit(0)
        if message := described.refusal(arguments):
            refuse(message)
        # Of what no parser knows.
        if asked := [name for name in _OF_LABS if f"--help.{name}" in arguments]:
            print(described.help_of(asked[0]), end="")
            sys.exit(0)
        if "--status" in arguments:
            with refusing():
                print(status(lab_of(source), arguments, described.defaults))
            sys.exit(0)


def lab_of(source: str | Path) -> str:
    """The lab of a source: ``lab5`` of ``lab5_observers.py``."""
    return Path(source).stem.partition("_")[0]


@dataclass(frozen=True)
class Described:
    """A command line, as its source tells it.

    Args:
        call: How it was started.
        text: The docstring of the source.
        options: What each option is, by name.
        defaults: Values of some options.
        commands: Subcommands, if there are any.
    """

    call: Call
    text: str
    options: Mapping[str, str]
    defaults: Mapping[str, Any]
    commands: Sequence[str] = ()

    def help(self) -> str:
        """The short help."""
        command = "{" + ",".join(self.commands) + "} " if self.commands else ""
        about, _, examples = self.call.examples(self.text).partition("Run:\n")
        parser = argparse.ArgumentParser(
            usage=self.call.line(f"{command}[options]").replace("%", "%%"),
            description=about.strip(),
            epilog=f"Examples:\n{examples.rstrip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        first = [name for name in _FIRST if name in self.options]
        others = [name for name in self.options if name not in first]
        self._add(parser.add_argument_group("what one changes first"), first)
        self._add(parser.add_argument_group("other options"), others, brief=True)
        group = parser.add_argument_group("more help")
        group.add_argument("--help.NAME", action="help", help="all about --NAME and --NAME.*")
        group.add_argument(f"--help.{ALL}", action="help", help="all about all options")
        return parser.format_help()

    def help_of(self, name: str) -> str:
        """All about one option that is answered here."""
        parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
        self._add(parser, [name])
        return parser.format_help()

    def _add(self, group: Any, names: Sequence[str], brief: bool = False) -> None:
        for name in names:
            default, text = self.defaults.get(name), self.options[name]
            section = isinstance(default, dict)
            if brief:
                text = text.partition(". ")[0].removesuffix(".") + "."
            if not section and default is not None and len(shown := json.dumps(default)) < 60:
                text += f" (default: {shown})"
            metavar = "FILE" if section or name == "config" else name.upper()
            metavar = "'[...]'" if isinstance(default, list) else metavar
            takes: dict[str, Any] = {"metavar": metavar}
            if name in _FLAGS:
                takes = {"action": "store_true"}
            group.add_argument(f"--{name}", help=text.replace("%", "%%"), **takes)

    def refusal(self, arguments: Sequence[str]) -> str | None:
        """What is wrong with the names in a command line, as far as it can be known here."""
        command, waiting = list(self.commands), False
        for place, argument in enumerate(arguments):
            if argument.startswith("--"):
                option, equals, _ = argument[2:].partition("=")
                if wrong := self._unknown(option.rstrip("+"), self.options):
                    return wrong
                waiting = not equals and not option.startswith(("help.", *_FLAGS))
            elif waiting:
                waiting = False
            elif argument.startswith("-"):
                option = argument[1:].partition("=")[0]
                if len(option) > 1:
                    meant = did_you_mean(f"--{option}", [f"--{each}" for each in self.options])
                    return f"-{option} is no option of {self.call.name}{meant or '.'}"
                waiting = "=" not in argument
            elif command:
                if argument not in command:
                    meant = did_you_mean(argument, command) or ";"
                    return (
                        f"{argument!r} is no command of {self.call.name}{meant} there are "
                        f"{', '.join(command)}."
                    )
                command = []
            else:
                return (
                    split_list(arguments, place)
                    or self._several(arguments, place)
                    or f"{argument!r} belongs to no option; --help lists the options."
                )
        return None

    def _several(self, arguments: Sequence[str], place: int) -> str | None:
        """What to write in place of the values of a list that stand one by one."""
        start = next((n for n in range(place - 1, -1, -1) if arguments[n].startswith("--")), None)
        if start is None:
            return None
        option, equals, value = arguments[start].partition("=")
        default = self.defaults.get(option[2:])
        if default is not None and not isinstance(default, list):
            return None
        values = [value] if equals else []
        for each in arguments[start + 1 :]:
            if each.startswith("-"):
                break
            values.append(each)
        whole = f"write '[{', '.join(values)}]' in quotes"
        if default is None:
            return f"{arguments[place]!r} belongs to no option; if {option} takes several, {whole}."
        return f"{option}: several values are one list; {whole}."

    def _unknown(self, option: str, known: Collection[str]) -> str | None:
        name, _, rest = option.partition(".")
        if name == "help" and rest:
            return None if rest == ALL else self._unknown(rest, [*known, ALL])
        if name in known:
            return None
        meant = did_you_mean(f"--{name}", [f"--{each}" for each in known])
        return f"--{name} is no option of {self.call.name}{meant or ';'} --help lists them all."


def split_list(arguments: Sequence[str], place: int) -> str | None:
    """What to write in place of a list that the shell took apart, of which ``place`` is a part."""
    for start in range(place - 1, -1, -1):
        option, equals, value = arguments[start].partition("=")
        opened = value if equals else arguments[start]
        if opened[:1] in ("[", "{") and (opened.count("[") + opened.count("{")) > (
            opened.count("]") + opened.count("}")
        ):
            whole = " ".join([opened, *arguments[start + 1 : place + 1]])
            for following in arguments[place + 1 :]:
                if following.startswith("--"):
                    break
                whole += f" {following}"
            name = option if equals else arguments[start - 1]
            return f"{name}: the shell took a list apart; write '{whole}' in quotes."
        if arguments[start].startswith("--"):
            return None
    return None


def read(source: str | Path, defaults: Path, call: Call) -> Described:
    """Read a source, which is not run."""
    path = Path(source)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = yaml.safe_load(defaults.read_text(encoding="utf-8"))
    own = _OF_EVERY_SCRIPT | (_OF_LABS if lab_of(path) in LABS else {})
    commands: Sequence[str] = ()
    named = _constants(tree)
    if "OPTIONS" in named:
        options, commands = named["OPTIONS"], named["COMMANDS"]
    else:
        (main,) = (
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and any(each.arg == "config_yaml" for each in node.args.args)
        )
        about = {each.arg_name: each.description for each in parse(ast.get_docstring(main)).params}
        arguments = main.args.args
        for argument, value in zip(arguments[::-1], main.args.defaults[::-1], strict=False):
            values.setdefault(argument.arg, ast.literal_eval(value))
        options = {each.arg: about[each.arg] or "" for each in arguments if each.arg in about}
        options.pop("config_yaml")
    return Described(
        call,
        ast.get_docstring(tree) or "",
        {name: " ".join(text.split()) for name, text in {**options, **own}.items()},
        values,
        commands,
    )


def _constants(tree: ast.Module) -> dict[str, Any]:
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("OPTIONS", "COMMANDS")
    }

"""The section of a script's YAML that chooses its network, by ``class_path`` and ``init_args``."""

import json
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.models import FROM_DATA, NetworkFactory

# What a checkpoint fixes, by the names that bert() and sequence_classifier() have for it.
_FIXED_BY_CHECKPOINT = {
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "config",
}


@dataclass(frozen=True)
class NetworkSection:
    """A section that takes any network.

    A section without ``class_path``, and ``--name.x``, are arguments of the default.

    Args:
        name: Of the section, such as ``model``.
        class_path: Of the default: that of the script's own YAML.
        skipped: Parameters that are not the user's to give.
        command: The subcommand that the section belongs to.
    """

    name: str
    class_path: str
    skipped: Collection[str] = ()
    command: str | None = None

    @classmethod
    def of(cls, defaults: Path, name: str, **options: Any) -> "NetworkSection":
        """The section ``name`` of a script, whose own YAML is ``defaults``."""
        content: Any = yaml.safe_load(defaults.read_text(encoding="utf-8"))
        for key in name.split("."):
            content = content[key]
        return cls(name, str(content["class_path"]), **options)

    def add_to(self, parser: ArgumentParser) -> None:
        """Add the section to a parser."""
        known = signature(imported(self.class_path)).parameters
        names = ", ".join(name for name in known if name not in self.skipped)
        parser.add_subclass_arguments(
            nn.Module,
            self.name,
            as_group=False,
            skip=set(self.skipped),
            instantiate=False,
            default={"class_path": self.class_path},
            help="The network: a YAML file, such as those in configs/model, or the name of a "
            f"function or class. --{self.name}.ARGUMENT changes one of its arguments; those of "
            f"{self.class_path} are {names}. --{self.name}.help [CLASS_PATH] explains them.",
        )

    def explain(self, arguments: Sequence[str]) -> None:
        """End with the help of a network if that is asked for; jsonargparse knows only classes."""
        for place, (option, value) in self._options(arguments):
            if option in (f"{self._option}.help", f"--help.{self.name}"):
                path = value or "".join(arguments[place + 1 : place + 2]) or self.class_path
                network = imported(path)
                parser = ArgumentParser(usage=SUPPRESS, add_help=False)
                if isclass(network):
                    parser.add_class_arguments(network, self.name, skip=set(self.skipped))
                else:
                    parser.add_function_arguments(network, self.name, skip=set(self.skipped))
                parser.print_help()
                sys.exit(0)

    def read_files(self, arguments: Sequence[str]) -> list[str]:
        """The arguments with what a file says in the place of its name.

        Of an error in the file jsonargparse says that the file refers to itself.

        Raises:
            ValueError: If it is not YAML.
        """
        read = list(arguments)
        for place, (option, value) in self._options(arguments):
            where = value or "".join(arguments[place + 1 : place + 2])
            if option == self._option and Path(where).is_file():
                text = json.dumps(_content(self._option, Path(where)))
                read[place] = f"{option}={text}" if value else option
                read[place + 1 : place + 2] = read[place + 1 : place + 2] if value else [text]
        return read

    def drop_overruled_defaults(
        self, parser: ArgumentParser, parsed: Namespace, arguments: Sequence[str]
    ) -> None:
        """Take back defaults that do not go with what the user gave.

        The script's own YAML describes one network. Its arguments do not apply to another one: of
        another ``class_path``, from a ``checkpoint``, or named as a whole (``--model FILE``, which
        also replaces what the user gave before it); and its checkpoint does not apply where the
        user gives dimensions. What the user himself gave stays, contradictions included.

        Args:
            parser: Of the script.
            parsed: What it made of the arguments; changed in place.
            arguments: The command line.
        """
        key = self.name if self.command is None else f"{self.command}.{self.name}"
        start = self._start_of_whole(arguments)
        said = self.read_files(arguments)
        if start is not None:
            said = [*([] if self.command is None else [self.command]), *said[start:]]
        # Not validated: what is required may stand in the script's own YAML.
        given = parser.parse_args(said, defaults=False, _skip_validation=True).get(key)
        if given is None:
            return
        chosen = vars(given.get("init_args", Namespace()))
        values = {name for name, value in chosen.items() if value is not None}
        section = parsed[key]
        known = set(vars(section.init_args))
        overruled: set[str] = set()
        if "checkpoint" in values:
            overruled = known
        elif start is not None or section.class_path != self.class_path:
            overruled = known - set(FROM_DATA)
        elif values & _FIXED_BY_CHECKPOINT:
            overruled = known & {"checkpoint"}
        for name in overruled - set(chosen):
            _reset(section, name)

    @property
    def _option(self) -> str:
        return f"--{self.name}"

    def _options(self, arguments: Sequence[str]) -> list[tuple[int, tuple[str, str]]]:
        parts = ((place, argument.partition("=")) for place, argument in enumerate(arguments))
        return [(place, (option, value)) for place, (option, _, value) in parts]

    def _start_of_whole(self, arguments: Sequence[str]) -> int | None:
        """Where the last file or class is given; a mapping changes what was said before."""
        for place, (option, value) in reversed(self._options(arguments)):
            value = value or "".join(arguments[place + 1 : place + 2])
            if option == self._option and not value.startswith("{"):
                return place
        return None


def network_factory(section: Namespace) -> NetworkFactory:
    """What makes the network that a section names."""
    arguments = {**vars(section.get("init_args", Namespace())), **section.get("dict_kwargs", {})}
    return NetworkFactory(imported(section.class_path), arguments)


def imported(class_path: str) -> Callable[..., nn.Module]:
    """The function or class of this name.

    Raises:
        ValueError: If there is none.
    """
    module, _, name = class_path.rpartition(".")
    try:
        found: Callable[..., nn.Module] = getattr(import_module(module or "builtins"), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputValueError(f"class_path={class_path!r} cannot be imported: {error}.") from error
    return found


def _content(option: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputValueError(f"{option}={str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputValueError(f"{option}={str(path)!r} holds no class_path and no arguments.")
    return content


def _reset(section: Namespace, name: str) -> None:
    """Give an argument the default of its class."""
    parameter = signature(imported(section.class_path)).parameters.get(name)
    if parameter is None:
        del section.init_args[name]
    elif parameter.default is not parameter.empty:
        section.init_args[name] = parameter.default
    elif name not in FROM_DATA:
        raise InputValueError(f"class_path={section.class_path!r} requires {name}; give it.")

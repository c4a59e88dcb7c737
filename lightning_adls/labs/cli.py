"""How a script starts: its YAML and its command line become the arguments of its ``main``."""

import gc
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from lightning_adls.engines import EngineFailed
from lightning_adls.errors import InputValueError
from lightning_adls.labs.calling import call
from lightning_adls.labs.ending import (
    ending,
    failing,
    piping,
    refuse,
    refusing,
    shown,
    with_room,
)
from lightning_adls.labs.long_help import explain
from lightning_adls.labs.messages import readable
from lightning_adls.labs.network import NetworkSection, network_factory
from lightning_adls.labs.notices import quiet
from lightning_adls.loggers import place_of
from lightning_adls.models import NetworkFactory
from lightning_adls.threads import SPIN_COUNT, WAIT_POLICY, wait_policy

__all__ = [
    "add_section",
    "construct",
    "ending",
    "explain",
    "parse",
    "piping",
    "printing",
    "quiet",
    "readable",
    "refuse",
    "refusing",
    "run",
    "shown",
]

_OURS = ("lightning_adls", "__main__")
_PRINT, _FLAGS = "--print_config", {"skip_default", "skip_unset"}

Factory = tuple[Callable[..., Any], set[str]]


def run(
    main: Callable[..., None],
    defaults: Path,
    factories: Mapping[str, Factory] | None = None,
    interrupted: str = "the same command continues",
    arguments: Sequence[str] | None = None,
) -> None:
    """Run ``main`` with arguments from its YAML file and the command line.

    Names and kinds are checked against the signatures before ``main`` starts. Wrong input ends
    with status 2 and one line, workers that cannot be had with status 1 and one line, Ctrl-C with
    status 130, SIGTERM with 143.

    Args:
        main: Its signature is the command line and its docstring the help. The parameter
            ``config_yaml`` is not an argument: it receives all arguments as YAML.
        defaults: The YAML file that is read before ``--config`` and the arguments.
        factories: By parameter of ``main``, a class, and those of its parameters that ``main``
            gives itself. ``main`` receives something to call, with the user's arguments filled in.
            ``NetworkFactory`` stands for any network, named by its ``class_path``. A ``seed`` is
            what ``main`` gives, unless the user gave one.
        interrupted: What Ctrl-C means for the results.
        arguments: The command line; by default that of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with piping():
        _run(main, defaults, factories or {}, interrupted, given)


def _run(
    main: Callable[..., None],
    defaults: Path,
    factories: Mapping[str, Factory],
    interrupted: str,
    given: Sequence[str],
) -> None:
    arguments = parse(main, defaults, factories, given)
    quiet()
    # Each training has a folder of its own, which its loggers share.
    warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")
    # A summary of each training, and what is done to a data base.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # What imports made lives on: garbage collections between trainings need not look at it again.
    gc.collect()
    gc.freeze()
    by = f"{WAIT_POLICY}, {SPIN_COUNT}" if os.environ.get(SPIN_COUNT) else WAIT_POLICY
    print(f"Threads that wait: {wait_policy()} ({by}).", flush=True)
    with ending(interrupted), refusing(), failing(EngineFailed), with_room():
        main(**arguments)


def parse(
    main: Callable[..., None],
    defaults: Path,
    factories: Mapping[str, Factory],
    arguments: Sequence[str],
) -> dict[str, Any]:
    """What :func:`run` calls ``main`` with, or an end with status 2 and one line."""
    parser = ArgumentParser(
        prog=call().words,
        description=(main.__doc__ or "").split("\n")[0],
        default_config_files=[str(defaults)],
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--config", action="config", help="A YAML file with arguments.")
    networks = {}
    for name, (factory, given) in factories.items():
        if factory is NetworkFactory:
            networks[name] = NetworkSection.of(defaults, name, skipped=given)
            networks[name].add_to(parser)
        else:
            add_section(parser, name, factory, given)
    parser.add_function_arguments(main, skip={"config_yaml", *factories}, sub_configs=True)
    flags, arguments = printing(arguments)
    with refusing(ArgumentError, UnicodeDecodeError):
        read = arguments
        for network in networks.values():
            network.explain(arguments)
            read = network.read_files(read)
        explain(parser, arguments)
        parsed = _parsed(parser, read)
        for network in networks.values():
            network.drop_overruled_defaults(parser, parsed, arguments)
        if flags is not None:
            print(parser.dump(parsed, **{"skip_unset": False, **flags}), end="")
            sys.exit(0)
    config_yaml = parser.dump(parsed, skip_unset=False)
    with refusing():
        made = vars(parser.instantiate(parsed, instantiators=[(construct, object, True)]))
    made.pop("config", None)
    for name, (factory, _) in factories.items():
        if name in networks:
            made[name] = network_factory(made[name])
        else:
            chosen = {k: v for k, v in vars(made[name]).items() if v is not None or k != "seed"}
            made[name] = partial(_make, factory, chosen)
    return {"config_yaml": config_yaml, **made}


def _parsed(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise InputValueError(readable(str(error), parser)) from error


def printing(arguments: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """What ``--print_config[=FLAGS]`` asks for, or None, and the other arguments.

    jsonargparse would print defaults that :meth:`NetworkSection.drop_overruled_defaults` drops.
    """
    flags: dict[str, Any] | None = None
    others = []
    for argument in arguments:
        option, _, value = argument.partition("=")
        if option == _PRINT:
            flags = {flag: True for flag in value.split(",") if flag}
        else:
            others.append(argument)
    if wrong := set(flags or ()) - _FLAGS:
        refuse(f"{_PRINT}={wrong.pop()} is none of {', '.join(sorted(_FLAGS))}.")
    return flags, others


def add_section(
    parser: Any, name: str, factory: Any, given: set[str], instantiate: bool = False
) -> None:
    """Add the parameters of a class as a section.

    Its ``seed`` is null unless the user gives one, and then to be filled in by what is built.
    """
    parser.add_class_arguments(
        factory, name, skip={*given, "seed"}, sub_configs=True, instantiate=instantiate
    )
    if "seed" in signature(factory).parameters:
        parser.add_argument(
            f"--{name}.seed", type=int | None, default=None, help="By default that of the script."
        )


def _make(factory: Callable[..., Any], chosen: dict[str, Any], *given: Any, **more: Any) -> Any:
    """What the user chose wins over what ``main`` gives."""
    return factory(*given, **{**more, **chosen})


def construct(kind: type, *arguments: Any, **options: Any) -> Any:
    """Make an object that a YAML file names; what a foreign class refuses is wrong input.

    Raises:
        ValueError: If the class refuses its arguments.
    """
    if isinstance(kind, type) and issubclass(kind, Logger):
        options = place_of(kind, options)
    try:
        return kind(*arguments, **options)
    except (ValueError, MisconfigurationException) as error:
        # Ours refuse with an InputValueError: any other ValueError is a fault.
        if isinstance(error, InputValueError) or kind.__module__.split(".")[0] in _OURS:
            raise
        raise InputValueError(f"{kind.__name__}: {error}") from error


class _Help(DefaultHelpFormatter):
    """jsonargparse lists all subclasses that are known, for a network those of torch."""

    def _get_help_string(self, action: Any) -> str:
        return super()._get_help_string(action).partition(", known subclasses: torch.nn.")[0]

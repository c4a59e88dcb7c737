"""How a script starts and ends: its command line, its one-line errors, its exit status."""

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser

_GRACE_SECONDS = 15

Factory = tuple[Callable[..., Any], set[str]]


def run(
    main: Callable[..., None],
    defaults: Path,
    factories: Mapping[str, Factory] | None = None,
    interrupted: str = "the same command continues",
) -> None:
    """Run ``main`` with arguments from its YAML file and the command line.

    Names and kinds are checked against the signatures before ``main`` starts. Wrong input ends
    with status 2 and one line, Ctrl-C with status 130, SIGTERM with 143.

    Args:
        main: Its signature is the command line and its docstring the help. The parameter
            ``config_yaml`` is not an argument: it receives all arguments as YAML.
        defaults: The YAML file that is read before ``--config`` and the arguments.
        factories: By parameter of ``main``, a class or function, and those of its parameters that
            ``main`` gives itself. ``main`` receives it with the others already filled in.
        interrupted: What Ctrl-C means for the results.
    """
    factories = factories or {}
    parser = ArgumentParser(
        description=(main.__doc__ or "").split("\n")[0],
        default_config_files=[str(defaults)],
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with arguments.")
    for name, (factory, given) in factories.items():
        if isinstance(factory, type):
            parser.add_class_arguments(
                factory, name, skip={*given}, sub_configs=True, instantiate=False
            )
        else:
            parser.add_function_arguments(factory, name, skip={*given}, sub_configs=True)
    parser.add_function_arguments(main, skip={"config_yaml", *factories}, sub_configs=True)
    with refusing(ArgumentError):
        parsed = parser.parse_args()
        config_yaml = parser.dump(parsed)
        made = {
            name: partial(factory, **parsed.pop(name).clone(with_meta=False))
            for name, (factory, _) in factories.items()
        }
        arguments = dict(parser.instantiate(parsed))
    arguments.pop("config", None)
    quiet()
    # What imports made lives on: garbage collections between trainings need not look at it again.
    gc.collect()
    gc.freeze()
    with ending(interrupted):
        main(config_yaml=config_yaml, **made, **arguments)


def quiet() -> None:
    """Keep to what a user can act on: no notices about each Trainer that a search makes."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # its batches are made fast
    warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # of torchdata, on torch 2.13
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # of Lightning, on torch 2.13


@contextmanager
def ending(interrupted: str = "the same command continues") -> Iterator[None]:
    """End with status 130 on Ctrl-C and 143 on SIGTERM, where Lightning says 1 and 0."""
    end = partial(_signalled, interrupted)
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, end)
    if earlier[signal.SIGINT] is signal.default_int_handler:  # not where a shell ignores it
        signal.signal(signal.SIGINT, end)
    try:
        yield
    except _Signalled as caught:
        _end_hard(caught.number, interrupted)
    except SystemExit as caught:
        # Lightning turns a KeyboardInterrupt into this.
        if not isinstance(caught.__context__, _Signalled):
            raise
        _end_hard(caught.__context__.number, interrupted)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Signalled(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: not to be caught as an error of a trial."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _signalled(interrupted: str, number: int, _: object) -> NoReturn:
    # The exception comes up wherever the program is, and may be lost there (in a finaliser) or held
    # up (TensorBoard's queue waits two minutes). So it comes again every second.
    deadline = monotonic() + _GRACE_SECONDS

    def again(*_: object) -> NoReturn:
        if monotonic() > deadline:
            _end_hard(number, interrupted)
        raise _Signalled(number)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    raise _Signalled(number)


def _end_hard(number: int, interrupted: str) -> NoReturn:
    """End at once: every finished step is on disk, and waiting threads would hold up the end."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    if number == signal.SIGINT:
        print(f"Interrupted; {interrupted}.", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(128 + number)


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """End with status 2 and one line where the user's input is wrong.

    Args:
        errors: What wrong input raises, besides ValueError, missing files and missing packages.
    """
    refused: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, *errors)
    try:
        yield
    except refused as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Print one line on standard error and end with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)

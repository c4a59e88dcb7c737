"""How a script ends: one-line errors, tracebacks, exit status."""

import errno
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import NoReturn, TextIO

from lightning_adls.errors import InputValueError

TRACEBACK = "LIGHTNING_ADLS_TRACEBACK"

_GRACE_SECONDS = 15
_NOBODY_READS = 141  # what a shell makes of SIGPIPE: 128 + 13
# Who found what is wrong, where that is a name which no user of a script has met.
_INTERNAL = re.compile(
    r"^(Budget|Engine|Objective|Rounds|Run|Search|Task|describe|exclusive|load|open_storage|open_study|read"
    r"|read_config|rebuild|run_study|state_for): "
)


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
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(128 + number)


@contextmanager
def piping() -> Iterator[None]:
    """End silently with status 141 where who reads the output has gone, as ``| head`` does.

    141 is what a shell says of other programs that end so. The signal itself stays ignored, as
    Python has it: it would also end a run whose connection to a database or to a worker is lost.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # while it can still be caught
    except BrokenPipeError:
        if not any([_left(sys.stdout), _left(sys.stderr)]):
            raise  # another pipe
        sys.exit(_NOBODY_READS)
    except SystemExit as caught:
        # Rich makes a status of it.
        if not isinstance(caught.__context__, BrokenPipeError):
            raise
        sys.exit(_NOBODY_READS)


def _left(stream: TextIO) -> bool:
    """Whether who read a stream has gone; it takes what it still has, for nobody."""
    asked = select.poll()
    asked.register(stream.fileno(), 0)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)
    return True


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """End with status 2 and one line where the user's input is wrong.

    Wrong input is what our own checks refuse with an :class:`InputValueError`, also where
    jsonargparse says it in words of its own. Everything else is a fault and comes with its
    traceback.

    Args:
        errors: What else means wrong input here.
    """
    try:
        yield
    except Exception as error:
        refused = _refused(error)
        if refused is None and not isinstance(error, errors):
            raise
        refuse(str(refused or error))


@contextmanager
def failing(*errors: type[Exception]) -> Iterator[None]:
    """End with status 1 and one line where the work cannot go on.

    Args:
        errors: That say so; what is done is kept.
    """
    try:
        yield
    except errors as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def with_room() -> Iterator[None]:
    """End with status 1 and one line where a disk is full; what is done is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(
            f"error: {os.strerror(error.errno)}{where}; make room, and the same command continues.",
            file=sys.stderr,
        )
        sys.exit(1)


def _refused(error: BaseException | None) -> InputValueError | None:
    """The check that failed, through the plain ValueErrors that jsonargparse wraps it into."""
    while type(error) is ValueError:
        error = error.__cause__
    return error if isinstance(error, InputValueError) else None


def refuse(message: str) -> NoReturn:
    """Print one line on standard error and end with status 2.

    With ``LIGHTNING_ADLS_TRACEBACK`` set to anything but 0, the traceback of the error that is
    being handled comes first.
    """
    if os.environ.get(TRACEBACK, "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {shown(message)}", file=sys.stderr)
    sys.exit(2)


def shown(message: str) -> str:
    """A message in one line, without the name of a part of the package that found it."""
    return _INTERNAL.sub("", " ".join(message.split()), count=1)

"""What an engine is: it lets workers compute, and one driver hears and decides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from lightning_adls.errors import InputValueError

# Of a worker that dies in the middle of it; then the call itself is taken to kill them.
TRIES = 3
# Workers, one after another, that died before they had said a word.
MOST_STILLBORN = 5
# A SIGKILL comes from outside (a person, no more memory) and says less of what is killed: so many
# times as often it is tried again.
OUTSIDE = 5


class Channel(Protocol):
    """By which a call speaks with the driver while it is computed."""

    def tell(self, message: Any) -> None:
        """Say something, and go on."""

    def ask(self, message: Any) -> Any:
        """Say something, and wait for the answer."""


@dataclass(eq=False)
class Shared:
    """What many calls have in common. A worker gets it once, and keeps it until another comes.

    Args:
        value: Anything that cloudpickle can write, where workers are other processes.
        folder: Where calls leave files and find them, if they do.
    """

    value: Any
    folder: Path | None = None
    key: str = field(default_factory=lambda: uuid4().hex)


@dataclass(eq=False)
class Call:
    """A piece of work: ``function(shared.value, argument, channel)``.

    Args:
        name: For people.
        function: Has no state of its own; what it returns goes to the driver.
        shared: What it has in common with other calls.
        argument: What it has not.
        reads: Files that it needs, as the driver finds them.
        leaves: Files that it may leave. When it has ended, the driver finds them at these paths,
            also where the worker has other disks.
    """

    name: str
    function: Callable[[Any, Any, Channel], Any]
    shared: Shared
    argument: Any = None
    reads: Sequence[Path] = ()
    leaves: Sequence[Path] = ()


@dataclass(frozen=True)
class Lost:
    """What a call came to that took its worker with it, each of :data:`TRIES` times.

    Args:
        reason: How the last one died.
    """

    reason: str


class Driver(Protocol):
    """Gives an engine its calls. All of its methods are called in the thread of :meth:`run`."""

    def next(self) -> Call | None:
        """What a free worker is to do; None if there is nothing before another call has ended."""

    def began(self, call: Call, worker: int) -> None:
        """A worker, counted from 1, has begun. After its death another one begins anew."""

    def heard(self, call: Call, message: Any) -> Any:
        """What a call says; what is returned is the answer, where it asks."""

    def ended(self, call: Call, result: Any) -> None:
        """What a call returned, or :class:`Lost`."""


class EngineFailed(Exception):
    """The workers cannot be had; the message says why, and what to do."""


class Engine(ABC):
    """Workers that compute calls; a context manager, at whose end no worker is left.

    Args:
        workers: Calls that are computed at the same time.

    Raises:
        InputValueError: If ``workers`` is below 1.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise InputValueError(f"Engine: workers={workers} is below 1.")
        self.workers = workers

    @abstractmethod
    def run(self, driver: Driver) -> None:
        """Compute what the driver gives, until it gives nothing and nothing is computed.

        Raises:
            EngineFailed: If workers cannot be started, or are gone.
            Exception: What a call raised; the others are given up.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers, whatever they do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

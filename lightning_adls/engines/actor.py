"""What a worker of a Ray cluster does: an actor, which speaks with the driver by one stream."""

import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lightning_adls.engines.pickling import dumps, loads


@dataclass(frozen=True)
class Order:
    """A call, as it travels.

    Args:
        number: By which the driver knows it.
        pickled: Its function and its argument.
        key: Of what it shares with others.
        shared: That, in Ray's store: a list of one reference, so that who has it need not fetch it.
        reads: Files that it needs.
        leaves: Files that it may leave.
        place: How to tell whether the driver's folder is here, too; None if there are no files.
    """

    number: int
    pickled: bytes
    key: str
    shared: Sequence[Any]
    reads: Sequence[Path]
    leaves: Sequence[Path]
    place: "Place | None"


@dataclass(frozen=True)
class Place:
    """Where the driver works.

    Args:
        folder: That relative paths start from.
        token: A file that the driver wrote where calls leave theirs.
        apart: Name of the folder that stands in for ``folder`` where the token is not seen.
    """

    folder: Path
    token: Path
    apart: str


@dataclass(frozen=True)
class Ready:
    """The worker can be given calls."""


@dataclass(frozen=True)
class Began:
    """A call has begun.

    Args:
        number: Of the call.
        host: Of the worker.
        apart: Where the call works, if the driver's folder is not here.
    """

    number: int
    host: str
    apart: Path | None


@dataclass(frozen=True)
class Said:
    """What a call says."""

    number: int
    message: Any
    asks: bool


@dataclass(frozen=True)
class Wants:
    """A call needs a file of the driver's."""

    number: int
    path: Path


@dataclass(frozen=True)
class Returned:
    """What a call returned, and files that it left where the driver does not see them."""

    number: int
    pickled: bytes
    files: dict[Path, bytes]


@dataclass(frozen=True)
class Raised:
    """What a call raised."""

    number: int
    pickled: bytes


Event = Ready | Began | Said | Wants | Returned | Raised


class Worker:
    """Computes one call at a time. Its three methods run in threads of their own.

    Args:
        prepare: Called before the first call; pickled.
    """

    def __init__(self, prepare: bytes) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._kept: dict[str, Any] = {}
        self._fetched: set[Path] = set()
        self._apart: Path | None = None
        prepared: Callable[[], object] | None = loads(prepare)
        if prepared is not None:
            prepared()

    def live(self) -> Iterator[Event]:
        """All that the driver hears; it breaks off where the worker dies."""
        yield Ready()
        while True:
            yield self._events.get()

    def answer(self, answer: Any) -> None:
        """What the call has asked for."""
        self._answers.put(answer)

    def compute(self, order: Order) -> None:
        """Compute a call."""
        try:
            result = self._compute(order)
            self._events.put(Returned(order.number, result, self._left(order)))
        except BaseException as error:
            self._events.put(Raised(order.number, _pickled(error)))

    def _compute(self, order: Order) -> bytes:
        import ray

        if order.key not in self._kept:
            self._kept.clear()
            self._fetched.clear()
            self._apart = _enter(order.place) if order.place else None
        # Before anything that may take the worker along.
        self._events.put(Began(order.number, socket.gethostname(), self._apart))
        if order.key not in self._kept:
            self._kept[order.key] = loads(ray.get(order.shared[0]))
        for path in order.reads:
            self._fetch(order.number, path)
        function, argument = loads(order.pickled)
        return dumps(function(self._kept[order.key], argument, _Spoken(self, order.number)))

    def _fetch(self, number: int, path: Path) -> None:
        if self._apart is not None and path not in self._fetched:
            content = self.ask(Wants(number, path))
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._fetched.add(path)

    def _left(self, order: Order) -> dict[Path, bytes]:
        if self._apart is None:
            return {}
        files = {path: path.read_bytes() for path in order.leaves if path.is_file()}
        for path in files:
            path.unlink()
        return files

    def tell(self, event: Event) -> None:
        """Let the driver hear of something."""
        self._events.put(event)

    def ask(self, event: Event) -> Any:
        """Let the driver hear of something, and wait for its answer."""
        self._events.put(event)
        return self._answers.get()


@dataclass(frozen=True)
class _Spoken:
    """The channel of one call."""

    worker: Worker
    number: int

    def tell(self, message: Any) -> None:
        self.worker.tell(Said(self.number, message, asks=False))

    def ask(self, message: Any) -> Any:
        return self.worker.ask(Said(self.number, message, asks=True))


def _enter(place: Place) -> Path | None:
    """Go to the driver's folder, or to one that stands in for it, which is returned."""
    if (place.folder / place.token).is_file():
        os.chdir(place.folder)
        return None
    apart = Path(tempfile.gettempdir(), place.apart)
    apart.mkdir(mode=0o700, exist_ok=True)
    os.chdir(apart)
    return apart


def _pickled(error: BaseException) -> bytes:
    """An error with its traceback as a note; another one in its place if it cannot travel."""
    told = "".join(traceback.format_exception(error))
    error.add_note(f"In a worker on {socket.gethostname()}:\n{told}")
    try:
        pickled = dumps(error)
        loads(pickled)
    except Exception:
        return dumps(RuntimeError(told))
    return pickled

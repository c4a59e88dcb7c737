"""What a worker process does. It holds no state but what calls share, and a line to the driver."""

import os
import signal
from multiprocessing.connection import Client, Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from lightning_adls.engines.pickling import dumps, loads

# What the last call shared, by its key.
_kept: dict[str, Any] = {}
_line: "Line | None" = None


class Line:
    """A worker's connection to the driver. The worker ends with it: none outlives its driver."""

    def __init__(self, address: str, secret: bytes, name: str) -> None:
        self._connection: Connection[Any, Any] = Client(address, authkey=secret)
        self._sending = Lock()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._connection.send((name, os.getpid()))
        Thread(target=self._listen, name="driver", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self._answers.put(self._connection.recv())
            except (EOFError, OSError):
                os._exit(1)

    def send(self, number: int, message: Any, asks: bool) -> None:
        with self._sending:
            self._connection.send((number, message, asks))

    def answer(self) -> Any:
        return self._answers.get()


class Spoken:
    """The channel of one call, known to the driver by its number."""

    def __init__(self, line: Line, number: int) -> None:
        self._line, self._number = line, number

    def tell(self, message: Any) -> None:
        self._line.send(self._number, message, asks=False)

    def ask(self, message: Any) -> Any:
        self._line.send(self._number, message, asks=True)
        return self._line.answer()


def begin(address: str, secret: bytes, name: str, prepare: bytes) -> None:
    """Start a worker. Ctrl-C reaches all processes of a terminal: only the driver answers it."""
    global _line
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _line = Line(address, secret, name)
    if (prepared := loads(prepare)) is not None:
        prepared()


def work(key: str, path: str, number: int, pickled: bytes) -> bytes:
    """Compute one call; both it and its result are written by cloudpickle."""
    assert _line is not None  # begin() came first
    if key not in _kept:
        _kept.clear()
        _kept[key] = loads(Path(path).read_bytes())
    function, argument = loads(pickled)
    _line.send(number, None, asks=False)
    result: bytes = dumps(function(_kept[key], argument, Spoken(_line, number)))
    return result

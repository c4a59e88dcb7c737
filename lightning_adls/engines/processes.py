"""Workers that are processes of this machine: spawned once, each with its share of the cores.

An executor of its own for each worker: a process that dies breaks its executor, and would take the
calls of all others with it.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any
from uuid import uuid4

from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from lightning_adls.engines import worker as in_worker
from lightning_adls.engines.base import (
    MOST_STILLBORN,
    OUTSIDE,
    TRIES,
    Call,
    Driver,
    Engine,
    EngineFailed,
    Lost,
    Shared,
)
from lightning_adls.engines.pickling import dumps, loads
from lightning_adls.engines.resources import environments


@dataclass(eq=False)
class _Work:
    """A call, and how often it was begun."""

    call: Call
    number: int
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A place in the pool; its process may be another one from one call to the next."""

    place: int
    environment: dict[str, str]
    name: str = ""
    executor: ProcessPoolExecutor | None = None
    connection: "Connection[Any, Any] | None" = None
    work: _Work | None = None
    begun: bool = False


@dataclass(frozen=True)
class _Connected:
    name: str
    connection: "Connection[Any, Any]"


@dataclass(frozen=True)
class _Said:
    name: str
    number: int
    message: Any
    asks: bool


@dataclass(frozen=True)
class _Done:
    worker: _Worker
    name: str
    future: "Future[bytes]"


class Processes(Engine):
    """Workers that are processes of this machine.

    They are started at the first call, stay until the end, and end with this process, however that
    ends. A call whose process dies is begun anew by another one.

    Args:
        workers: How many processes.
        use_gpus: Whether each is given a GPU, where there are any.
        prepare: Called by each before its first call.

    Raises:
        InputValueError: If ``workers`` is below 1.
    """

    def __init__(
        self, workers: int, use_gpus: bool = True, prepare: Callable[[], object] | None = None
    ) -> None:
        super().__init__(workers)
        self._prepare = dumps(prepare)
        made = enumerate(environments(workers, use_gpus), 1)
        self._workers = [_Worker(place, environment) for place, environment in made]
        self._events: SimpleQueue[_Connected | _Said | _Done] = SimpleQueue()
        self._listener: Listener | None = None
        self._secret = os.urandom(32)
        self._folder: Path | None = None
        self._stillborn = self._calls = 0

    def run(self, driver: Driver) -> None:
        """Compute what the driver gives, on all workers."""
        try:
            self._fill(driver)
            while any(worker.work for worker in self._workers):
                self._handle(self._events.get(), driver)
                self._fill(driver)
        except BaseException:
            # Nobody waits for what is still computed.
            self.close()
            raise

    def _fill(self, driver: Driver) -> None:
        for worker in self._workers:
            if worker.work is None:
                if (call := driver.next()) is None:
                    return
                self._calls += 1
                self._start(worker, _Work(call, self._calls))

    def _start(self, worker: _Worker, work: _Work) -> None:
        worker.work, worker.begun = work, False
        pickled = dumps((work.call.function, work.call.argument))
        path = self._written(work.call.shared)
        arguments = work.call.shared.key, str(path), work.number, pickled
        try:
            future = self._submitted(worker, *arguments)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._discard(worker)
            future = self._submitted(worker, *arguments)
        name = worker.name
        future.add_done_callback(lambda done: self._events.put(_Done(worker, name, done)))

    def _submitted(self, worker: _Worker, *arguments: Any) -> "Future[bytes]":
        if worker.executor is None:
            worker.name, worker.connection = uuid4().hex, None
            worker.executor = ProcessPoolExecutor(
                max_workers=1,
                initializer=in_worker.begin,
                initargs=(self._address(), self._secret, worker.name, self._prepare),
                env=worker.environment,
            )
        with _deaf_to_interrupts():
            future: Future[bytes] = worker.executor.submit(in_worker.work, *arguments)
        return future

    def _written(self, shared: Shared) -> Path:
        """The file that workers read a shared value from; earlier ones are of no use any more."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lightning_adls-"))
        path = self._folder / shared.key
        if not path.exists():
            used = {w.work.call.shared.key for w in self._workers if w.work is not None}
            for earlier in self._folder.iterdir():
                if earlier.name not in used:
                    earlier.unlink()
            path.write_bytes(dumps(shared.value))
        return path

    def _address(self) -> Any:
        if self._listener is None:
            self._listener = Listener(authkey=self._secret)
            accepting = Thread(target=self._accept, args=(self._listener,), daemon=True)
            accepting.start()
        return self._listener.address

    def _accept(self, listener: Listener) -> None:
        while True:
            # Whoever does not know the secret, or dies meanwhile, is no worker.
            with suppress(Exception):
                connection = listener.accept()
                if (hello := connection.recv()) is None:
                    return
                self._events.put(_Connected(hello[0], connection))
                Thread(target=self._hear, args=(hello[0], connection), daemon=True).start()

    def _hear(self, name: str, connection: "Connection[Any, Any]") -> None:
        with suppress(EOFError, OSError), connection:
            while True:
                self._events.put(_Said(name, *connection.recv()))

    def _handle(self, event: "_Connected | _Said | _Done", driver: Driver) -> None:
        match event:
            case _Connected(name, connection):
                if worker := self._named(name):
                    worker.connection = connection
            case _Said(name, number, message, asks):
                worker = self._named(name)
                if worker and worker.work and worker.work.number == number:
                    self._hear_call(worker, worker.work.call, message, asks, driver)
            case _Done(worker, name, future):
                if worker.name == name and worker.work is not None:
                    self._end(worker, worker.work, future, driver)

    def _named(self, name: str) -> _Worker | None:
        return next((worker for worker in self._workers if worker.name == name), None)

    def _hear_call(
        self, worker: _Worker, call: Call, message: Any, asks: bool, driver: Driver
    ) -> None:
        if not worker.begun:  # the first word of a call is that it begins
            worker.begun, self._stillborn = True, 0
            driver.began(call, worker.place)
            return
        answer = driver.heard(call, message)
        if asks and worker.connection is not None:
            with suppress(OSError):  # it died meanwhile, which its future says
                worker.connection.send(answer)

    def _end(self, worker: _Worker, work: _Work, future: "Future[bytes]", driver: Driver) -> None:
        worker.work = None
        error = future.exception()
        if error is None:
            driver.ended(work.call, loads(future.result()))
        elif isinstance(error, BrokenProcessPool):
            self._bury(worker, work, error, driver)
        else:
            raise error

    def _bury(self, worker: _Worker, work: _Work, error: Exception, driver: Driver) -> None:
        """A worker died. Its call is begun anew, unless it seems to be what kills them."""
        reason, begun = _reason(error), worker.begun
        patience = OUTSIDE if "SIGKILL" in reason else 1
        self._discard(worker)
        if begun:
            work.deaths += 1
        else:
            self._stillborn += 1
            if self._stillborn >= patience * MOST_STILLBORN:
                raise EngineFailed(
                    f"Engine: {self._stillborn} workers died, one after another, before they could "
                    f"begin ({reason}); what they said is above. Mend it, or use workers=1."
                )
        if work.deaths < patience * TRIES:
            self._start(worker, work)
        else:
            driver.ended(work.call, Lost(reason))

    def _discard(self, worker: _Worker) -> None:
        executor, worker.executor, worker.name = worker.executor, None, ""
        worker.connection = None  # its thread closes it
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def close(self) -> None:
        """End the workers, whatever they do."""
        for worker in self._workers:
            worker.work = None
            self._discard(worker)
        if self._listener is not None:
            with suppress(Exception), Client(self._listener.address, authkey=self._secret) as own:
                own.send(None)  # closing it does not wake the thread that waits for connections
            self._listener.close()
            self._listener = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _reason(error: Exception) -> str:
    """What loky knows of a death: the signal or the exit code, if the process could be asked."""
    text = str(error)
    _, found, codes = text.partition("The exit codes of the workers are ")
    return f"exit code {codes.strip('{}. ')}" if found else type(error).__name__


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start within ignore Ctrl-C from their first moment on.

    A signal that is ignored stays so in a new program. Only the main thread may say so.
    """
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

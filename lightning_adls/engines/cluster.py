"""Workers that are actors of a Ray cluster, on one machine or on many.

All that an actor says comes by one stream, of which the driver is the only reader: where an actor
or its node dies, the stream breaks off, and nothing that others need was held by it.
"""

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from lightning_adls.engines import actor
from lightning_adls.engines.base import (
    MOST_STILLBORN,
    TRIES,
    Call,
    Driver,
    Engine,
    EngineFailed,
    Lost,
    Shared,
)
from lightning_adls.engines.pickling import dumps, loads
from lightning_adls.engines.resources import THREADS, VISIBLE
from lightning_adls.engines.session import Ray, Session
from lightning_adls.threads import brief_waiting

_TICK_SECONDS = 1.0
_SAY_SECONDS = 60.0  # to import torch takes a while, too

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    """A call, and how often a worker died of it, or before it."""

    call: Call
    number: int
    begun: bool = False
    deaths: int = 0
    stillborn: int = 0


@dataclass(eq=False)
class _Worker:
    """A place in the pool; its actor may be another one from one call to the next."""

    place: int
    actor: Any = None
    stream: Any = None
    ready: bool = False
    work: _Work | None = None
    stillborn: int = 0


class Cluster(Engine):
    """Workers that are actors of a Ray cluster.

    They are started at the first call and stay until the end; they end with this process, however
    that ends. A worker that finds no room begins when there is some, as when a node joins. A call
    whose worker or node dies is begun anew by another one.

    Args:
        workers: How many actors.
        ray: Where, and what each gets.
        use_gpus: Whether each is given GPUs by default.
        prepare: Called by each before its first call.

    Raises:
        InputValueError: If ``workers`` is below 1, there is no such cluster, or not even one worker
            has room in it.
        MissingPackageError: If Ray is not installed.
    """

    def __init__(
        self,
        workers: int,
        ray: Ray,
        use_gpus: bool = True,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(workers)
        self._session = Session(ray, use_gpus)
        self._ray, self._patience = self._session.ray, ray.patience
        self._prepare = dumps(prepare)
        self._workers = [_Worker(place) for place in range(1, workers + 1)]
        self._queue: deque[_Work] = deque()
        self._shared: dict[str, Any] = {}  # references, by key
        self._tokens: dict[str, Path] = {}
        self._apart = f"lightning_adls-{uuid4().hex[:12]}"
        self._hosts_apart: set[str] = set()
        self._calls = 0
        self._idle_since: float | None = None
        self._said = False
        if self._session.room < workers:
            _logger.warning(
                "Ray: of workers=%d no more than %d have room at a time.",
                *(workers, self._session.room),
            )

    def _hire(self) -> None:
        """An actor for each place; those that find no room wait for it."""
        self._session.start()
        missing = [worker for worker in self._workers if worker.actor is None]
        if not missing:
            return
        wanted = self._session.wanted()
        environment = {
            THREADS: os.environ.get(THREADS) or str(max(1, int(wanted["CPU"]))),
            **brief_waiting(os.environ),
        }
        if not wanted["GPU"]:
            environment[VISIBLE] = ""  # Ray would leave them all in sight
        make = self._ray.remote(actor.Worker).options(
            num_cpus=wanted["CPU"],
            num_gpus=wanted["GPU"],
            max_restarts=0,
            max_concurrency=3,
            runtime_env={"env_vars": environment},
        )
        for worker in missing:
            worker.actor = make.remote(self._prepare)
            worker.stream = worker.actor.live.remote()

    def _dismiss(self, worker: _Worker) -> None:
        if worker.actor is not None:
            self._ray.kill(worker.actor)
        worker.actor = worker.stream = worker.work = None
        worker.ready = False

    def close(self) -> None:
        """End the workers, whatever they do, and a Ray that was started here."""
        self._queue.clear()
        self._shared.clear()
        for worker in self._workers:
            if self._ray.is_initialized():
                self._dismiss(worker)
        for token in self._tokens.values():
            token.unlink(missing_ok=True)
        self._tokens.clear()
        self._session.end()

    def run(self, driver: Driver) -> None:
        """Compute what the driver gives, on all workers that have room."""
        try:
            self._fill(driver)
            while self._queue or self._computing:
                self._hire()
                self._await(driver)
                self._fill(driver)
        except BaseException:
            # Nobody waits for what is still computed.
            self.close()
            raise

    @property
    def _computing(self) -> bool:
        return any(worker.work for worker in self._workers)

    def _fill(self, driver: Driver) -> None:
        free = [worker for worker in self._workers if worker.ready and worker.work is None]
        # Not ahead of the workers: a search proposes by what has ended before.
        wanted = len(free) or int(not self._computing)
        while len(self._queue) < wanted and (call := driver.next()) is not None:
            self._calls += 1
            self._queue.append(_Work(call, self._calls))
        for worker in free:
            if self._queue:
                self._start(worker, self._queue.popleft())

    def _start(self, worker: _Worker, work: _Work) -> None:
        call = work.call
        worker.work, work.begun = work, False
        order = actor.Order(
            work.number,
            dumps((call.function, call.argument)),
            call.shared.key,
            [self._reference(call.shared)],
            call.reads,
            call.leaves,
            self._place(call.shared),
        )
        worker.actor.compute.remote(order)

    def _reference(self, shared: Shared) -> Any:
        """Of a shared value in Ray's store; earlier ones are of no use any more."""
        if shared.key not in self._shared:
            used = {worker.work.call.shared.key for worker in self._workers if worker.work}
            for earlier in {*self._shared} - used:
                del self._shared[earlier]
                if token := self._tokens.pop(earlier, None):
                    token.unlink(missing_ok=True)
            self._shared[shared.key] = self._ray.put(dumps(shared.value))
        return self._shared[shared.key]

    def _place(self, shared: Shared) -> actor.Place | None:
        """By which a worker can tell whether it sees the folder."""
        if shared.folder is None:
            return None
        if shared.key not in self._tokens:
            shared.folder.mkdir(parents=True, exist_ok=True)
            token = shared.folder / f".shared-{shared.key}"
            token.touch()
            self._tokens[shared.key] = token
        return actor.Place(Path.cwd(), self._tokens[shared.key], self._apart)

    def _await(self, driver: Driver) -> None:
        """Handle what workers say, of which there may be nothing."""
        streams = {worker.stream: worker for worker in self._workers if worker.stream is not None}
        ready, _ = self._ray.wait([*streams], timeout=_TICK_SECONDS)
        if ready:  # all, or a worker that says much would be the only one that is heard
            ready, _ = self._ray.wait([*streams], num_returns=len(streams), timeout=0)
        for stream in ready:
            self._hear(streams[stream], driver)
        self._check_patience()

    def _hear(self, worker: _Worker, driver: Driver) -> None:
        try:
            event = self._ray.get(next(worker.stream))
        except (self._ray.exceptions.RayError, StopIteration) as error:
            self._bury(worker, _reason(error), driver)
            return
        if isinstance(event, actor.Ready):
            worker.ready, worker.stillborn = True, 0
        elif (work := worker.work) is not None:
            self._handle(worker, work, event, driver)

    def _handle(self, worker: _Worker, work: _Work, event: actor.Event, driver: Driver) -> None:
        match event:
            case actor.Began(_, host, apart):
                work.begun = True
                if apart is not None:
                    self._say_apart(host, apart / (work.call.shared.folder or ""))
                driver.began(work.call, worker.place)
            case actor.Said(_, message, asks):
                answer = driver.heard(work.call, message)
                if asks:
                    worker.actor.answer.remote(answer)
            case actor.Wants(_, path):
                worker.actor.answer.remote(path.read_bytes() if path.is_file() else None)
            case actor.Returned(_, pickled, files):
                worker.work = None
                for path, content in files.items():
                    _write(path, content)
                driver.ended(work.call, loads(pickled))
            case actor.Raised(_, pickled):
                worker.work = None
                raise loads(pickled)

    def _say_apart(self, host: str, folder: Path) -> None:
        if host not in self._hosts_apart:
            self._hosts_apart.add(host)
            _logger.warning(
                "Ray: %s does not see this folder: weights and results come from there, but "
                "curves stay there, in %s.",
                *(host, folder),
            )

    def _bury(self, worker: _Worker, reason: str, driver: Driver) -> None:
        """A worker died. Its call is begun anew, unless it seems to be what kills them."""
        work, ready = worker.work, worker.ready
        self._dismiss(worker)
        if not ready:
            worker.stillborn += 1
            if worker.stillborn >= MOST_STILLBORN:
                raise EngineFailed(
                    f"Engine: {MOST_STILLBORN} workers died, one after another, before they could "
                    f"begin: {reason} Mend it, or use another engine."
                )
        if work is None:
            return
        # What a worker said last may have died with it, so this is no proof that it had not begun.
        work.deaths += work.begun
        work.stillborn += not work.begun
        if work.deaths < TRIES and work.stillborn < MOST_STILLBORN:
            self._queue.appendleft(work)
        else:
            driver.ended(work.call, Lost(reason))

    def _check_patience(self) -> None:
        """Do not wait for room for ever."""
        if any(worker.ready for worker in self._workers):
            self._idle_since, self._said = None, False
            return
        now = monotonic()
        self._idle_since = self._idle_since or now
        waited = now - self._idle_since
        if waited < (self._patience if self._said else min(_SAY_SECONDS, self._patience)):
            return
        if waited >= self._patience:
            raise EngineFailed(
                f"Engine: no worker has begun for ray.patience={self._patience:g} s: "
                f"{self._session.described()}; start another node, or wait until others are done, "
                "and the same command goes on."
            )
        self._said = True
        _logger.warning("Ray: no worker has begun yet: %s.", self._session.described())


def _reason(error: BaseException) -> str:
    """What Ray knows of a death, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip() and line[:1] != "\t"]
    last = lines[-1].strip() if lines else type(error).__name__
    return last.partition(" Some common causes")[0]


def _write(path: Path, content: bytes) -> None:
    """Write a file, which is whole when it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)

"""A driver's connection to a Ray cluster, and what each worker gets of it."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning_adls.engines.base import EngineFailed
from lightning_adls.engines.resources import cores, gpus
from lightning_adls.errors import InputValueError, MissingPackageError

_AUTO, _ADDRESS = "auto", "RAY_ADDRESS"
_CONNECT_SECONDS = 5.0
# By which a program is told to end, or tells itself.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

# What a node has, or a worker gets: CPUs and GPUs, by Ray's names.
Resources = dict[str, float]


@dataclass(frozen=True)
class Ray:
    """Where workers of a Ray cluster are started, and what each of them gets.

    Args:
        address: ``host:port`` of a cluster's head, which this machine is a node of; ``auto`` finds
            the cluster that runs on this machine; null starts one of this machine alone.
        num_cpus: Cores of each worker; it has as many threads.
        num_gpus: GPUs of each worker; 0.5 lets two share one. By default 1 if the cluster has any.
        patience: Seconds to wait for room where no worker has any.

    Raises:
        InputValueError: If a number is out of range, or the address is of another kind.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    patience: float = 300.0

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputValueError(f"Ray: {name}={value:g} is below 0, or endless.")
        if self.num_cpus == 0 and not self.num_gpus:
            raise InputValueError(
                "Ray: num_cpus=0 needs num_gpus, or workers without end have room."
            )
        if self.address is not None and self.address != _AUTO:
            host, _, port = self.address.rpartition(":")
            if not host or not port.isdecimal() or "/" in host:
                raise InputValueError(
                    f"Ray: address={self.address!r} is neither 'auto' nor 'host:port', such as "
                    "'10.0.0.1:6379', which `ray start --head` prints."
                )


class Session:
    """A connection to a cluster, or to one of this machine alone, which it then starts and ends.

    Args:
        options: Which cluster, and what each worker gets.
        use_gpus: Whether a worker is given a GPU by default.

    Attributes:
        ray: The package.

    Raises:
        InputValueError: If there is no such cluster, or not even one worker has room in it.
        MissingPackageError: If Ray is not installed.
    """

    def __init__(self, options: Ray, use_gpus: bool) -> None:
        self.ray = _imported()
        self._options, self._use_gpus = options, use_gpus
        self._connected = False
        self._folder: Path | None = None  # of a cluster that was started here
        if options.address is not None:
            self.start()
        nodes = self._nodes() if self.ray.is_initialized() else [self._here()]
        wanted = self._wanted(nodes)
        self.room = sum(
            min(int(node.get(name, 0) / each) for name, each in wanted.items() if each)
            for node in nodes
        )
        if not self.room:
            self.end()
            raise InputValueError(
                f"Engine: a worker of ray.num_cpus={wanted['CPU']:g} and "
                f"ray.num_gpus={wanted['GPU']:g} has no room in a cluster of {_described(nodes)}."
            )

    def start(self) -> None:
        """Connect, if that is not done.

        Raises:
            InputValueError: If there is no such cluster, or this process is in another one.
            EngineFailed: If one of this machine alone cannot be started.
        """
        if self._connected:
            return
        address = self._options.address
        if address == _AUTO:
            address = os.environ.get(_ADDRESS) or _AUTO
        if self.ray.is_initialized():
            own = self.ray.get_runtime_context().gcs_address
            if address not in (None, _AUTO, own):
                raise InputValueError(
                    f"Engine: ray.address={address!r}: this process is connected to {own!r} "
                    "already; give that, or call ray.shutdown() before."
                )
        elif address is None:
            self._start_here()
        else:
            self._join(address)

    def _start_here(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        here = self._here()
        # Ray lets nobody in without one, and would keep it in the user's home.
        os.environ.setdefault("RAY_AUTH_TOKEN", uuid4().hex)
        try:
            self._init(
                address="local",
                num_cpus=here["CPU"],
                num_gpus=here["GPU"],
                include_dashboard=False,
                _temp_dir=str(self._folder),
            )
        except (RuntimeError, ValueError, OSError) as error:
            self.end()
            raise EngineFailed(f"Engine: Ray does not start: {_first_line(error)}") from error

    def _join(self, address: str) -> None:
        if address != _AUTO:
            _reach(address)  # Ray itself would try for minutes
        try:
            self._init(address=address)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputValueError(
                f"Engine: ray.address={address!r}: {_first_line(error)} This machine has to be a "
                "node: run `ray start --head`, or `ray start --address=HOST:PORT` with the "
                "address of another one that is the head."
            ) from error

    def _init(self, **options: Any) -> None:
        with _keeping_signals():
            self.ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        self._connected = True

    def end(self) -> None:
        """End the connection, and a cluster that was started here."""
        with _deaf():  # a second Ctrl-C would leave half of it behind
            if self._connected:
                self.ray.shutdown()
                self._connected = False
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None

    def wanted(self) -> Resources:
        """What each worker gets."""
        return self._wanted(self._nodes())

    def _wanted(self, nodes: Sequence[Resources]) -> Resources:
        gpus = self._options.num_gpus
        if gpus is None:
            gpus = float(self._use_gpus and any(node.get("GPU", 0) for node in nodes))
        return {"CPU": self._options.num_cpus, "GPU": gpus}

    def described(self) -> str:
        """What the cluster has, and what of it is free."""
        free = _described([self.ray.available_resources()])
        return f"the cluster has {_described(self._nodes())}, free are {free}"

    def _here(self) -> Resources:
        """What this machine has."""
        wanted = self._options.num_gpus
        use_gpus = self._use_gpus if wanted is None else wanted > 0
        return {"CPU": cores(), "GPU": len(gpus()) if use_gpus else 0}

    def _nodes(self) -> list[Resources]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


def _imported() -> Any:
    """Ray, which takes a second to import."""
    try:
        with _keeping_signals():
            import ray
    except ImportError as error:
        raise MissingPackageError(
            "Engine: engine='ray' needs Ray, which is not installed; run pip install 'ray>=2.50'."
        ) from error
    return ray


def _reach(address: str) -> None:
    """Refuse an address at which nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputValueError(
            f"Engine: ray.address={address!r}: nobody answers there ({error}); start the cluster "
            "with `ray start --head`, and give the address that it prints."
        ) from error


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray answers SIGTERM in its own way, where this program has one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore signals. To block them would not do: Ray's threads would be given them."""
    with _keeping_signals():
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield


def _described(nodes: list[dict[str, float]]) -> str:
    """The resources of nodes, for people."""
    each = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return "; ".join(
        f"{each.count(one)} x {one}" if each.count(one) > 1 else one for one in dict.fromkeys(each)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

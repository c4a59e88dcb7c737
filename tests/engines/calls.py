"""What workers compute in tests: without torch, so that they start in a moment."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_adls.engines import Call, Channel, Shared


class Listed:
    """A driver that gives a list of calls and keeps what it hears."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any], shared: Any = None):
        common = Shared(shared)
        self.left = [Call(str(each), function, common, each) for each in arguments]
        self.results: dict[str, Any] = {}
        self.said: list[tuple[str, Any]] = []
        self.workers: list[int] = []

    def next(self) -> Call | None:
        return self.left.pop(0) if self.left else None

    def began(self, call: Call, worker: int) -> None:
        self.workers.append(worker)

    def heard(self, call: Call, message: Any) -> Any:
        self.said.append((call.name, message))
        return message * 2

    def ended(self, call: Call, result: Any) -> None:
        assert call.name not in self.results, "computed twice"
        self.results[call.name] = result


def square(shared: Any, number: int, channel: Channel) -> tuple[int, int]:
    return number**2, os.getpid()


def asks(shared: Any, number: int, channel: Channel) -> int:
    channel.tell(number + 100)
    return int(channel.ask(number)) + int(channel.ask(number + 1))


def raises(shared: Any, number: int, channel: Channel) -> int:
    if number == 2:
        raise KeyError("the third")
    return number


def environment(shared: Sequence[str], number: int, channel: Channel) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in shared}


def dies_once(folder: Path, number: int, channel: Channel) -> int:
    """Die the first time that the number is tried, if it is odd."""
    tried = folder / str(number)
    channel.tell(number)
    if number % 2 and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(shared: Any, number: int, channel: Channel) -> int:
    if number == 1:
        os._exit(7)
    return number


class Counted:
    """Counts how often each process reads it."""

    read = 0

    def __init__(self) -> None:
        self.content = "much"

    def __setstate__(self, state: Any) -> None:
        type(self).read += 1


def read_by(shared: Counted, number: int, channel: Channel) -> tuple[int, int]:
    return os.getpid(), shared.read


def refuses() -> None:
    raise RuntimeError("no licence")


def read(shared: Any, path: Path, channel: Channel) -> tuple[str, Path]:
    return path.read_text(), Path.cwd()


def slowly(shared: Any, number: int, channel: Channel) -> int:
    """Tell on which node of Ray's it is computed."""
    import ray

    channel.tell(ray.get_runtime_context().get_node_id())
    time.sleep(0.1)
    return number

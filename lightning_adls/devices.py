"""Training on several devices of a machine in the process that asks for it and in others."""

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, ClassVar, TypeVar

import lightning as L
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.launcher import _Launcher
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from lightning_adls.errors import InputValueError
from lightning_adls.threads import cores

PartT = TypeVar("PartT")

# What Lightning sets for a training, and would be wrong in the next one.
_OF_ONE_TRAINING = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE")
# How long a process that failed has to end, once the first one found out by itself.
_END_SECONDS = 5.0


class StaysHere:
    """What a :class:`DDPFromHere` does not send to its other processes, such as a progress bar."""

    # Called without arguments, makes what they have in its place.
    elsewhere: ClassVar[Callable[[], object]] = L.Callback


class DDPFromHere(DDPStrategy):
    """DDP of one machine in which the process that calls ``fit`` is the first, and goes on after.

    Lightning's ``ddp`` runs the whole script again for each device, which suits a script that
    trains once, and its ``ddp_spawn`` trains elsewhere, of which weights alone come back. Here the
    Trainer, its module, data and callbacks are pickled and sent to a new process for each other
    device. The processes end with the training: what they have is the first one's as well, but for
    what is in :class:`StaysHere`, of which there is one. So a search, with its storage, its bars
    and its lease, trains one model after another.

    The new processes import the script, which therefore has to do its work under
    ``if __name__ == "__main__"``.

    Args:
        arguments: Of ``DistributedDataParallel``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def _configure_launcher(self) -> None:
        self._launcher = _FromHere(self)


class _FromHere(_Launcher):
    def __init__(self, strategy: DDPFromHere) -> None:
        self._strategy = strategy
        self._others: list[Any] = []

    @property
    def is_interactive_compatible(self) -> bool:
        return False  # a notebook is no script that can be imported

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``function`` here and in the other processes; what it returns here."""
        trainer = kwargs.pop("trainer")
        if getattr(torch.multiprocessing.current_process(), "_inheriting", False):
            raise InputValueError(
                f"devices={self._strategy.num_processes}: the other processes import this script, "
                "which starts to train then; put its work under if __name__ == '__main__'."
            )
        with _as_before(), self._started(trainer, (function, args, kwargs)) as started:
            try:
                result = function(*args, **kwargs)
            except RuntimeError as error:
                # Perhaps the other end of a connection is gone.
                _raise_cause(started, error)
                raise
            while not _ended(started):
                pass
        return result

    def kill(self, signum: int) -> None:
        """Send a signal to the other processes."""
        for process in self._others:
            if process.is_alive():
                os.kill(process.pid, signum)

    @contextmanager
    def _started(self, trainer: L.Trainer, call: Any) -> Iterator[ProcessContext]:
        """The other processes, ready to begin; they are gone afterwards."""
        others = self._strategy.num_processes - 1
        environment = self._strategy.cluster_environment
        assert environment is not None
        _ = environment.main_port  # chosen now, to be the same in all
        ready = torch.multiprocessing.get_context("spawn").SimpleQueue()
        arguments = (_pickled(call, trainer, others + 1), _collect_rng_states(), others + 1, ready)
        started: Any = start_processes(_take_part, arguments, others, join=False)
        try:
            waiting = others
            while waiting:
                _ended(started, timeout=0.05)
                while not ready.empty():
                    ready.get()
                    waiting -= 1
            self._others = started.processes
            yield started
        finally:
            self._others = []
            for process in started.processes:
                # Not by a signal that Python handles: it may wait for a process that is gone.
                process.kill()
                process.join()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _take_part(index: int, content: bytes, states: Any, processes: int, ready: Any) -> None:
    """What another process does from its start to its end."""
    os.environ["LOCAL_RANK"] = str(index + 1)
    rank_zero_only.rank = index + 1  # type: ignore[attr-defined]  # Lightning's, of a function
    # The first process says what there is to say.
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // processes))
    function, args, kwargs = pickle.loads(content)  # of the process that started this
    _set_rng_states(states)
    ready.put(index)
    function(*args, **kwargs)


@contextmanager
def _as_before() -> Iterator[None]:
    """Leave threads and the environment as they were."""
    threads = torch.get_num_threads()
    environment = {name: os.environ.get(name) for name in _OF_ONE_TRAINING}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _Pickler(pickle.Pickler):
    """Sends one Trainer; data know an earlier one, of which nothing is needed any more."""

    def __init__(self, file: BytesIO, trainer: L.Trainer) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._trainer = trainer

    def reducer_override(self, obj: Any) -> Any:
        # Not `isinstance`, which asks what a weak reference is about.
        if issubclass(type(obj), StaysHere):
            return obj.elsewhere, ()
        if issubclass(type(obj), L.Trainer) and obj is not self._trainer:
            return type(None), ()
        return NotImplemented


def _pickled(call: Any, trainer: L.Trainer, processes: int) -> bytes:
    # By value, where torch's own way would have the processes train the same memory.
    file = BytesIO()
    try:
        _Pickler(file, trainer).dump(call)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputValueError(
            f"devices={processes}: a part of the training cannot be sent to another process "
            f"({error}); make it of functions and classes that have a name in a file."
        ) from error
    return file.getvalue()


def _ended(started: ProcessContext, timeout: float | None = None) -> bool:
    """Wait for the next of the processes to end; whether all have ended.

    Raises:
        InputValueError: If it refused something, in its words.
        RuntimeError: If it failed otherwise, in one line.
    """
    try:
        return bool(started.join(timeout, grace_period=0))
    except ProcessRaisedException as error:
        *_, last = str(error).strip().splitlines()
        kind, _, sentence = last.partition(": ")
        if kind.rpartition(".")[0] == InputValueError.__module__:
            raise InputValueError(sentence) from error
        raise RuntimeError(f"process {error.error_index + 2}: {last}") from error
    except ProcessExitedException as error:
        raise RuntimeError(f"process {error.error_index + 2} ended: {error}") from error


def _raise_cause(started: ProcessContext, error: RuntimeError) -> None:
    """Raise what another process failed with, of which ``error`` here is the consequence."""
    if isinstance(error, torch.OutOfMemoryError):
        return
    try:
        _ended(started, _END_SECONDS)
    except RuntimeError as cause:
        raise cause from error


def of_all_processes(part: PartT) -> list[PartT]:
    """What each process of a distributed run has, in their order; what can be pickled.

    All of them have to call it. Outside of such a run it is ``[part]``.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts

"""Wall times: synchronised, warm-up left out, competitors in turn."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError


@dataclass(frozen=True)
class Rounds:
    """How often to call what is timed.

    Args:
        timed: Rounds that are timed, 1 or more.
        warmup: Rounds before them that are not.
        seed: Of the order within each round.

    Raises:
        ValueError: If a number is too small.
    """

    timed: int = 20
    warmup: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.timed < 1:
            raise InputValueError(f"Rounds: timed={self.timed} is below 1.")
        if self.warmup < 0:
            raise InputValueError(f"Rounds: warmup={self.warmup} is below 0.")


ROUNDS = Rounds()


@dataclass(frozen=True)
class Spread:
    """A median of times in ms or of their quotients, and their 10th and 90th percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """Of values of shape ``(rounds,)``.

        Example:
            >>> Spread.of(torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0, 100.0])).median
            3.5
        """
        at = torch.tensor([0.5, 0.1, 0.9], dtype=values.dtype)
        return cls(*values.quantile(at).tolist())


def call_ms(call: Callable[[], object], clock: Callable[[], float] | None = None) -> float:
    """Time of one call in ms, from an idle GPU to an idle GPU where one is in use."""
    clock = clock or perf_counter
    _synchronize()
    start = clock()
    call()
    _synchronize()
    return (clock() - start) * 1e3


def _synchronize() -> None:
    """Wait for the current CUDA device, in a process that has used CUDA."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def time_ms(call: Callable[[], object], rounds: Rounds = ROUNDS) -> Tensor:
    """Wall times of calls after the warm-up, in ms, shape ``(rounds.timed,)``.

    Example:
        >>> time_ms(lambda: None, Rounds(timed=5)).shape
        torch.Size([5])
    """
    return alternate({"": call}, rounds)[""]


def alternate(
    calls: Mapping[str, Callable[[], object]],
    rounds: Rounds = ROUNDS,
    clock: Callable[[], float] | None = None,
) -> dict[str, Tensor]:
    """Times of calls that take turns, so that a change of the machine's speed meets all alike.

    Every call is made once per round, in a new random order each round: none profits from always
    following the same other one. Times at the same place are of the same round; a quotient of two
    calls is best taken round by round.

    Args:
        calls: What is timed, by name.
        rounds: How often.
        clock: Seconds since some time; None is wall time. ``time.process_time`` counts those
            that this process computes, on all threads: other processes disturb it less.

    Returns:
        By name, times in ms of shape ``(rounds.timed,)``, float64.

    Example:
        >>> times = alternate({"a": lambda: None, "b": lambda: None}, Rounds(timed=4))
        >>> (times["a"] / times["b"]).shape
        torch.Size([4])
    """
    for _ in range(rounds.warmup):
        for call in calls.values():
            call()
    order, shuffler = list(calls), random.Random(rounds.seed)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds.timed):
        shuffler.shuffle(order)
        for name in order:
            times[name].append(call_ms(calls[name], clock))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}


def break_even(compile_ms: float, eager_ms: float, compiled_ms: float) -> float | None:
    """Steps after which compiling has paid for itself, or None for never.

    Args:
        compile_ms: What compiling took, 0 or more.
        eager_ms: Time of a step without it.
        compiled_ms: Time of a step with it.

    Example:
        >>> break_even(9000.0, eager_ms=30.0, compiled_ms=20.0)
        900.0
    """
    saved_ms = eager_ms - compiled_ms
    return compile_ms / saved_ms if saved_ms > 0 else None

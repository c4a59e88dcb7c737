"""How many times faster one network is than another, say than itself before pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lightning_adls.bench.instruments.timing import ROUNDS, Rounds, Spread, alternate
from lightning_adls.bench.workloads.devices import current, usable
from lightning_adls.bench.workloads.inputs import Inputs
from lightning_adls.bench.workloads.steps import passes_over
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.errors import InputValueError


@dataclass(frozen=True)
class Speedup:
    """Two networks compared.

    Attributes:
        ratio: Time of the first over time of the second within a round: 1.2 says that the second is
            1.2 times as fast. Where 1 lies between ``p10`` and ``p90``, neither is known to be
            faster.
        before_ms: Of the first, for a pass over all batches.
        after_ms: Of the second.
    """

    ratio: Spread
    before_ms: Spread
    after_ms: Spread


def speedup(
    before: nn.Module,
    after: nn.Module,
    batches: Sequence[Inputs],
    *,
    device: torch.device | str = "cpu",
    rounds: Rounds = ROUNDS,
) -> Speedup:
    """Compare two networks that need not compute the same, such as one and what pruning left of it.

    In each round both make a pass over all batches: forward, eager, in float32, in eval mode and
    without gradients, on copies. Which goes first is drawn anew, so that the machine's changes of
    speed meet both alike. It is the wall time of this device at these sizes and with this number of
    threads, and not a count of operations: what lies between the layers, and products that become
    too small or too oddly shaped to be fast, are in it. For what computes the same, in several
    variants, ``measure`` also checks the results.

    Args:
        before: What ``after`` is compared with.
        after: The other one.
        batches: What both are called with, one or more; real ones, as their padding takes time.
        device: ``cpu`` or ``cuda``, with an index if there are several.
        rounds: How many rounds to warm up and to time.

    Raises:
        ValueError: If there are no batches or no such device.

    Example:
        >>> wide, narrow = torch.nn.Linear(8, 512), torch.nn.Linear(8, 4)
        >>> found = speedup(wide, narrow, [torch.ones(2, 8)], rounds=Rounds(timed=5))
        >>> found.ratio.p10 <= found.ratio.median <= found.ratio.p90
        True
    """
    if not batches:
        raise InputValueError("speedup: batches=[] is empty; give at least one.")
    place = usable(device, "speedup")
    calls = {
        "before": passes_over(before, batches, Variant(), place),
        "after": passes_over(after, batches, Variant(), place),
    }
    with current(place):
        times_ms = alternate(calls, rounds)
    return Speedup(
        ratio=Spread.of(times_ms["before"] / times_ms["after"]),
        before_ms=Spread.of(times_ms["before"]),
        after_ms=Spread.of(times_ms["after"]),
    )

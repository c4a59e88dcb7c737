"""What is reported of a target in a variant."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lightning_adls.bench.contestant import Contestant
from lightning_adls.bench.instruments.timing import Spread, break_even
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.threads import wait_policy

Record = dict[str, Any]
"""A :class:`Measurement` by the names of its attributes; an experiment adds keys of its own."""


@dataclass(frozen=True)
class Measurement:
    """What was measured. A number that does not apply or could not be had is None.

    Attributes:
        target: Name of the model.
        variant: How it was run.
        device: Where.
        dtype: Of weights and inputs.
        training: Full training steps, or forward passes only.
        threads: Of torch on the CPU.
        waiting: How they wait for work; see :func:`lightning_adls.threads.wait_policy`.
        batch: Samples per step.
        tokens: Of each sample.
        first_call_ms: Time of the first call, which compiles.
        compile_ms: First call minus a steady one; None if not compiled.
        median_ms: Of a steady step.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        samples_per_s: At the median.
        tokens_per_s: At the median.
        held_mb: Weights, buffers, inputs and the optimiser's state, in 10^6 bytes.
        peak_mb: That and the most that was allocated on top during a step, in 10^6 bytes.
        graphs: Compiled in the first call; 0 means that torch gave up and ran it eagerly.
        graph_breaks: Lines of code at which a graph of the first call had to end early.
        recompilations: Graphs compiled in later calls, which disturb the times.
        max_relative_error: Of output, loss and gradients, to the same model in eager float32.
        speedup_over_first: Times faster than the first target and variant, median over the rounds.
        speedup_over_eager: Times faster than the same model, eager in the same data type.
        break_even_steps: After which compiling has paid for itself; None means never.
        error: Why it could not be measured, on one line.
    """

    target: str
    variant: str
    device: str
    dtype: str
    training: bool
    threads: int
    waiting: str
    batch: int | None = None
    tokens: int | None = None
    first_call_ms: float | None = None
    compile_ms: float | None = None
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    held_mb: float | None = None
    peak_mb: float | None = None
    graphs: int | None = None
    graph_breaks: int | None = None
    recompilations: int | None = None
    max_relative_error: float | None = None
    speedup_over_first: float | None = None
    speedup_over_eager: float | None = None
    break_even_steps: float | None = None
    error: str | None = None


def records_of(
    contestants: Sequence[Contestant],
    device: str,
    training: bool,
    batch: int,
    tokens: int | None,
) -> list[Record]:
    """A record for each contestant, with the keys of ``Measurement``."""
    records = []
    for contestant in contestants:
        measurement = Measurement(
            target=contestant.name,
            variant=str(contestant.variant),
            device=device,
            dtype=contestant.variant.dtype,
            training=training,
            threads=torch.get_num_threads(),
            waiting=wait_policy(),
            batch=batch,
            tokens=tokens,
            error=contestant.error,
        )
        found = {} if contestant.error is not None else _found(contestant, batch, tokens)
        records.append(asdict(measurement) | found | _compared(contestant, contestants))
    return records


def _found(contestant: Contestant, batch: int, tokens: int | None) -> dict[str, Any]:
    """What was measured of a contestant alone."""
    spread = Spread.of(contestant.times_ms)
    steps_per_s = 1e3 / spread.median
    found = {
        "first_call_ms": contestant.first_call_ms,
        "median_ms": spread.median,
        "p10_ms": spread.p10,
        "p90_ms": spread.p90,
        "samples_per_s": batch * steps_per_s,
        "tokens_per_s": None if tokens is None else batch * tokens * steps_per_s,
        "held_mb": contestant.held_bytes / 1e6,
        "peak_mb": contestant.peak_bytes / 1e6,
        "max_relative_error": contestant.max_relative_error,
    }
    if contestant.variant.backend is not None:
        found |= {
            "compile_ms": _compile_ms(contestant),
            "graphs": contestant.compiled.graphs,
            "graph_breaks": len(contestant.compiled.breaks),
            "recompilations": contestant.recompilations,
        }
    return found


def _compile_ms(contestant: Contestant) -> float:
    return max(contestant.first_call_ms - Spread.of(contestant.times_ms).median, 0.0)


def _compared(contestant: Contestant, contestants: Sequence[Contestant]) -> dict[str, Any]:
    """What was measured of a contestant next to others."""
    compared = {"speedup_over_first": _speedup(contestant, contestants[0])}
    eager = next((other for other in contestants if _is_eager_of(contestant, other)), None)
    if eager is None:
        return compared
    compared["speedup_over_eager"] = _speedup(contestant, eager)
    if contestant is not eager and compared["speedup_over_eager"] is not None:
        compared["break_even_steps"] = break_even(
            _compile_ms(contestant),
            Spread.of(eager.times_ms).median,
            Spread.of(contestant.times_ms).median,
        )
    return compared


def _is_eager_of(contestant: Contestant, other: Contestant) -> bool:
    return other.name == contestant.name and other.variant == Variant(
        dtype=contestant.variant.dtype
    )


def _speedup(contestant: Contestant, other: Contestant) -> float | None:
    """How many times faster than ``other``, each divided within its own round."""
    if contestant.error is not None or other.error is not None:
        return None
    return Spread.of(other.times_ms / contestant.times_ms).median

"""A variant while it is measured."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_adls.bench.failures import one_line
from lightning_adls.bench.instruments.correctness import Result
from lightning_adls.bench.instruments.graphs import Graphs, graphs_compiled, watched
from lightning_adls.bench.instruments.memory import held_bytes, peak_bytes, release_memory
from lightning_adls.bench.instruments.timing import call_ms
from lightning_adls.bench.workloads.compiler_state import cold_cache, prime
from lightning_adls.bench.workloads.inputs import Inputs
from lightning_adls.bench.workloads.steps import ForwardStep, Loss, Target, make_step
from lightning_adls.bench.workloads.variants import Variant


@dataclass(frozen=True)
class Setting:
    """What all variants of a comparison share.

    Args:
        inputs: What to call the model with.
        device: Where it runs.
        loss: To train with; None for forward passes only.
        cold: Compile with an empty cache.
    """

    inputs: Inputs
    device: torch.device
    loss: Loss | None
    cold: bool


@dataclass
class Contestant:
    """A target run in one variant: prepared, called many times, inspected.

    The first error ends it and is kept as a line of text; from then on it does nothing, so that the
    others go on.
    """

    name: str
    target: Target
    variant: Variant
    error: str | None = None
    first_call_ms: float = 0.0
    compiled: Graphs = field(default_factory=Graphs)
    recompilations: int = 0
    held_bytes: int = 0
    peak_bytes: int = 0
    max_relative_error: float | None = None
    times_ms: Tensor = field(default_factory=lambda: torch.empty(0))
    _step: ForwardStep | None = None

    def prepare(self, setting: Setting, until_the_end: ExitStack) -> None:
        """Build the step and make the first call, which compiles it."""
        try:
            self.variant.check()
            if self.variant.backend is not None:
                prime(self.variant, setting.device, setting.loss is not None)
                if setting.cold:
                    # Kernels may be loaded from it as long as the variant is called.
                    until_the_end.enter_context(cold_cache())
            step = make_step(
                self.target, self.variant, setting.inputs, setting.device, setting.loss
            )
            with watched() as self.compiled:
                self.first_call_ms = call_ms(step)
            self._step = step
        except Exception as error:
            self.error = one_line(error)
        self._end_if_failed()

    def __call__(self) -> None:
        if self._step is None:
            return
        before = graphs_compiled()
        try:
            self._step()
        except Exception as error:
            self.error = one_line(error)
        self.recompilations += graphs_compiled() - before
        self._end_if_failed()

    def inspect(self, setting: Setting, reference: Result | None) -> None:
        """Check what a steady step computes, and what it needs; then let go of the model."""
        if self._step is None:
            return
        try:
            if reference is not None:
                self.max_relative_error = self._step.result().error_to(reference)
            self.held_bytes = held_bytes(self._step.tensors())
            self.peak_bytes = self.held_bytes + peak_bytes(self._step, setting.device)
        except Exception as error:
            self.error = one_line(error)
        self._step = None

    def _end_if_failed(self) -> None:
        # Not where the error is caught: until then it holds the tensors of the failed call.
        if self.error is not None:
            self._step = None
            release_memory()


def reference_result(target: Target, setting: Setting) -> Result | None:
    """What eager float32 computes, or None where that cannot be had: its record says why."""
    try:
        return make_step(target, Variant(), setting.inputs, setting.device, setting.loss).result()
    except Exception:
        pass
    release_memory()
    return None

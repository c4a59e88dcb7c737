"""Compiling under conditions that can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from lightning_adls.bench.workloads.variants import Variant

# torch's own limit, for each compiled function.
_RECOMPILATIONS = 8


@contextmanager
def room_for(variants: int) -> Iterator[None]:
    """Compile that many variants of a model as if each was alone, forgetting all at both ends.

    Everything that this process has compiled is forgotten too and compiled again when it is next
    called. Functions after a graph break are shared by the variants of a model, so torch's limit of
    recompilations per function, beyond which it silently runs them eagerly, holds for each variant.
    """
    torch.compiler.reset()
    limits = {
        "recompile_limit": _RECOMPILATIONS * max(variants, 1),
        "accumulated_recompile_limit": 32 * _RECOMPILATIONS * max(variants, 1),
    }
    try:
        with torch._dynamo.config.patch(limits):
            yield
    finally:
        torch.compiler.reset()


@contextmanager
def cold_cache() -> Iterator[None]:
    """Let inductor find nothing that was compiled before, in this process or on disk.

    It keeps graphs and kernels on disk, by which the second run of a program compiles much faster
    than the first. The empty cache used instead is deleted at the end.
    """
    # Takes seconds to import.
    from torch._inductor.utils import fresh_cache

    fresh = fresh_cache()
    fresh.__enter__()
    try:
        yield
    finally:
        # Told of an error, it would leave the folder behind, with a warning.
        fresh.__exit__(None, None, None)


def prime(variant: Variant, device: torch.device, training: bool) -> None:
    """Compile something small once per process, so that no variant pays for torch's own start.

    The first compilation imports the compiler and asks what the machine can do, which takes longer
    than to compile a small model.
    """
    _prime(replace(variant, dtype="float32"), device, training)


@cache
def _prime(variant: Variant, device: torch.device, training: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU()).to(device).train(training)
    x = torch.ones(2, 8, device=device)
    with torch.set_grad_enabled(training), cold_cache():
        output = variant.compiled(model)(x)
        if training:
            output.sum().backward()

"""How much memory a call needs."""

import gc
import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

# Kineto's usual level, 5, lets two lines per profile through to stderr.
_KINETO_SILENT = "6"


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that were allocated at one time during a call, on top of those before it.

    Counted is what torch's allocator of the device gives out: results, activations, gradients and
    temporary tensors, also those of compiled code. Weights, inputs and all else that was there
    before do not count, nor does scratch memory that libraries take from the system themselves,
    nor what an allocator or CUDA graphs keep in store between calls.

    Args:
        call: Is called once; make it once before, so that nothing is built or compiled.
        device: Whose memory to watch. On the CPU the call runs under torch's profiler, which is
            slow; do not time it.

    Example:
        >>> peak_bytes(lambda: torch.zeros(1000).sin())
        8000
    """
    if torch.device(device).type == "cuda":
        return _peak_of_cuda(call, torch.device(device))
    return _peak_of_cpu(call)


def _peak_of_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_cpu(call: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", _KINETO_SILENT)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None
    changes = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        live += change.nbytes()
        peak = max(peak, live)
    return peak


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; one that comes twice counts once.

    Example:
        >>> weight = torch.zeros(10)
        >>> held_bytes([weight, weight, torch.zeros(2, dtype=torch.float64)])
        56
    """
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


def release_memory() -> None:
    """Let go of what a failed call has left, in reference cycles and in CUDA's store."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()

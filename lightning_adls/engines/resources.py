"""What of a machine each of several workers gets: threads, and a GPU where there are any."""

import os

from lightning_adls.threads import brief_waiting

THREADS = "OMP_NUM_THREADS"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """The CUDA devices that this process sees, by the names that they have in the environment."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def environments(workers: int, use_gpus: bool = True) -> list[dict[str, str]]:
    """The environment of each worker, which it must have before it imports torch.

    Args:
        workers: How many there are. Each has an equal share of the cores, unless the user has set
            ``OMP_NUM_THREADS``, and at least one thread; their threads sleep while they wait.
        use_gpus: Whether each sees one of the GPUs. More workers than GPUs share them.
    """
    threads = os.environ.get(THREADS) or str(max(1, cores() // workers))
    common = {THREADS: threads, **brief_waiting(os.environ)}
    devices = gpus() if use_gpus else []
    if not devices:
        return [dict(common) for _ in range(workers)]
    return [{**common, VISIBLE: devices[place % len(devices)]} for place in range(workers)]


def crowded(workers: int, use_gpus: bool = True) -> str | None:
    """A sentence, where workers get in each other's way."""
    devices = len(gpus()) if use_gpus else 0
    if devices and workers > devices:
        return f"workers={workers} share {devices} GPU{'s' if devices > 1 else ''}."
    if not devices and workers > cores():
        return f"workers={workers} share {cores()} cores: no more trials an hour than with fewer."
    return None

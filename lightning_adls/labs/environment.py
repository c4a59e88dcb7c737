"""What a result was computed with: the machine, the versions, the optional parts."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

import lightning_adls
from lightning_adls.threads import wait_policy

# The first are always there; the others by the command beside them.
_REQUIRED = (
    "lightning",
    "transformers",
    "datasets",
    "tokenizers",
    "torchmetrics",
    "optuna",
    "optuna-integration",
    "numpy",
)
_OPTIONAL = {
    "peft": "pip install 'peft>=0.18'",
    "psycopg": "pip install 'psycopg[binary]>=3.2'",
    "optuna-dashboard": "pip install 'optuna-dashboard>=0.18'",
}
_NO_VERSION = "no version: run from its source"


def environment() -> dict[str, str]:
    """The machine and the versions, by name, as text for a report.

    Example:
        >>> environment()["torch"] == torch.__version__
        True
    """
    return {**machine(), **versions()}


def versions() -> dict[str, str]:
    """Versions by the name of the package, as text.

    They are read from what is installed, without importing it. An optional part that is missing
    says how to install it.
    """
    return {
        "lightning_adls": lightning_adls.__version__,
        "torch": torch.__version__,
        **{name: _version(name) or "not installed" for name in _REQUIRED},
        **{
            name: _version(name) or f"not installed; {command}"
            for name, command in _OPTIONAL.items()
        },
        "chop": _chop(),
    }


def machine() -> dict[str, str]:
    """Processor, memory, devices and Python, by name, as text."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": f"{_usable_cores()} of {os.cpu_count()}",
        "torch threads": f"{torch.get_num_threads()}, waiting: {wait_policy()}",
        "memory": _memory(),
        "CUDA devices": ", ".join(devices) or "none",
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _chop() -> str:
    """MASE's package, whose distribution has had two names; it pins an older torch than ours."""
    for distribution in ("mase", "mase-tools"):
        if found := _version(distribution):
            return found
    if find_spec("chop") is not None:
        return _NO_VERSION
    return "not installed; https://github.com/DeepWok/mase, in an environment of its own"


def _cpu() -> str:
    """The name of the processor: Linux knows more than Python says."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    """Cores that this process may run on, which a scheduler may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> str:
    """Of the whole machine, in GiB (2^30 bytes)."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on every system
        return "unknown"
    return f"{size / 2**30:.1f} GiB"

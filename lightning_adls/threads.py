"""How torch's threads on the CPU wait for work, and how many processors there are for them."""

import os

# OpenMP 5.2, section 21.1.9. Read once, when torch is imported.
WAIT_POLICY = "OMP_WAIT_POLICY"


def wait_policy() -> str:
    """``passive`` (threads sleep), ``active`` (they spin) or ``default`` (they spin a while).

    Example:
        >>> wait_policy() in ("passive", "active", "default")
        True
    """
    return os.environ.get(WAIT_POLICY, "default").strip().lower()


def cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

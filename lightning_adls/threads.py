"""How torch's threads on the CPU wait for work, and how many processors there are for them."""

import os
from collections.abc import Mapping

# Both are read once, when torch is imported. The first is OpenMP's (5.2, section 21.1.9); by the
# second, GNU's OpenMP, which torch's builds for Linux bring, tells how often a thread looks for
# work before it sleeps.
WAIT_POLICY = "OMP_WAIT_POLICY"
SPIN_COUNT = "GOMP_SPINCOUNT"
SPINS = 3000
"""Not told from sleeping at once beside other work, and cheaper without (benchmarks/waiting.py)."""


def wait_policy() -> str:
    """``passive`` (threads sleep), ``active`` (they spin) or ``default`` (they spin a while).

    Example:
        >>> wait_policy().split()[0] in ("passive", "active", "default")
        True
    """
    policy = os.environ.get(WAIT_POLICY, "default").strip().lower()
    spins = os.environ.get(SPIN_COUNT, "").strip()
    return f"{policy} after {spins} spins" if spins else policy


def brief_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which threads sleep soon, unless an environment says how they wait.

    Args:
        environment: What it says of them is kept.

    Example:
        >>> brief_waiting({})
        {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '3000'}
        >>> brief_waiting({"OMP_WAIT_POLICY": "ACTIVE"})
        {'OMP_WAIT_POLICY': 'ACTIVE'}
    """
    given = {name: environment[name] for name in (WAIT_POLICY, SPIN_COUNT) if environment.get(name)}
    if WAIT_POLICY in given:
        return given
    return {WAIT_POLICY: "PASSIVE", SPIN_COUNT: str(SPINS)} | given


def cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

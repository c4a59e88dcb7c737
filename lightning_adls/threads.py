"""How torch's threads on the CPU wait for work, which OpenMP reads from the environment."""

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

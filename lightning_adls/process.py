"""Which process something belongs to, and whether that process still runs."""

import os
import socket
from pathlib import Path


def machine() -> str:
    """What process numbers count within: containers may share a host's name, but not these."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    return socket.gethostname()


def started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if it is gone, or not known.

    Numbers of processes are used again; a number and this are not.
    """
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def runs(pid: int, start: int | None = None) -> bool:
    """Whether a process of this machine runs.

    Args:
        pid: Its number.
        start: When it started; None if that is not known.
    """
    if os.name != "posix":
        return True  # no way to ask that is not one to kill
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    fields = _stat(pid)
    if fields is None:
        return True
    # One that has ended, and was not asked for by its parent, has still its number.
    return fields[0] != "Z" and start in (None, int(fields[19]))


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the third on; the second can be anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None

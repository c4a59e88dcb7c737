"""Engines by name."""

from collections.abc import Callable

from lightning_adls.engines.base import Engine
from lightning_adls.engines.serial import Serial
from lightning_adls.engines.session import Ray
from lightning_adls.errors import InputValueError, did_you_mean

ENGINES = ("serial", "processes", "ray")


def make_engine(
    name: str | None = None,
    workers: int = 1,
    use_gpus: bool = True,
    prepare: Callable[[], object] | None = None,
    ray: Ray | None = None,
) -> Engine:
    """An engine by its name.

    Args:
        name: ``serial``, ``processes`` or ``ray``; by default ``serial`` for one worker, and
            ``processes`` for more.
        workers: Calls that are computed at the same time.
        use_gpus: Whether each worker is given a GPU, where there are any.
        prepare: Called by each worker that is a process, before its first call.
        ray: Where the workers of a cluster are started, and what each gets.

    Raises:
        InputValueError: If there is no such engine or cluster, or not with so many workers.
        MissingPackageError: If Ray is asked for and not installed.
    """
    if workers < 1:
        raise InputValueError(f"Engine: workers={workers} is below 1.")
    name = name or ("serial" if workers == 1 else "processes")
    if name not in ENGINES:
        meant = did_you_mean(name, ENGINES) or ";"
        raise InputValueError(
            f"Engine: engine={name!r} is unknown{meant} there are {', '.join(ENGINES)}."
        )
    if name == "serial":
        if workers > 1:
            raise InputValueError(
                f"Engine: workers={workers} need another engine than 'serial', which is this "
                "process; leave engine out, or name 'processes' or 'ray'."
            )
        return Serial()
    if name == "ray":
        from lightning_adls.engines.cluster import Cluster

        return Cluster(workers, ray or Ray(), use_gpus, prepare)
    from lightning_adls.engines.processes import Processes

    return Processes(workers, use_gpus, prepare)

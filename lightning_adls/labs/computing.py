"""Who computes the trials or the steps of a lab."""

import sys
from typing import Literal

from lightning_adls.budget import Budget
from lightning_adls.engines import Engine, Ray, make_engine
from lightning_adls.engines.resources import crowded, gpus
from lightning_adls.errors import InputValueError
from lightning_adls.labs.notices import quiet

EngineName = Literal["serial", "processes", "ray"]


def computing_by(engine: EngineName | None, workers: int, ray: Ray, budget: Budget) -> Engine:
    """An engine, as a lab's command line names it; no worker of it is started yet.

    Args:
        engine: Its name; by default ``serial`` for one worker, and ``processes`` for more.
        workers: How many.
        ray: The cluster, for ``ray``.
        budget: Of what they compute: it says whether they need GPUs.

    Raises:
        InputValueError: If there is no such engine or cluster, or not with so many workers.
        MissingPackageError: If Ray is asked for and not installed.
    """
    use_gpus = budget.accelerator != "cpu"
    made = make_engine(engine, workers, use_gpus, prepare=quiet, ray=ray)
    shares = engine != "ray" and made.workers > 1  # of what this machine has
    if shares and use_gpus and gpus() and budget.devices != 1:
        raise InputValueError(
            f"Engine: workers={workers} have a GPU each, and budget.devices={budget.devices} wants "
            "others; give one of the two, or --engine ray with --ray.num_gpus."
        )
    if shares and (sentence := crowded(made.workers, use_gpus)):
        print(f"warning: {sentence}", file=sys.stderr)
    return made

"""How far a fit has come, in the unit of the limit that ends it."""

from math import inf
from typing import Any

import lightning as L


def progress_of(trainer: L.Trainer, batches_ago: int = 0) -> tuple[float, float]:
    """What a fit has done, and what it will have done; the latter is infinite if it has no end.

    Both are optimizer steps. A module that optimises by itself makes any number of them for each
    batch: there both are batches, unless ``max_steps`` comes first.

    Args:
        trainer: While it fits.
        batches_ago: For what had been done before the last batches.
    """
    steps, total = trainer.global_step, trainer.estimated_stepping_batches
    if trainer.lightning_module.automatic_optimization:
        return steps - batches_ago, total
    loop: Any = trainer.fit_loop.epoch_loop  # its counters are typed by their base class
    batches = loop.batch_progress.total.processed
    epochs = trainer.max_epochs or 0
    all_batches = inf if epochs == -1 else trainer.num_training_batches * epochs
    max_steps = inf if trainer.max_steps == -1 else trainer.max_steps
    share = 1 - batches_ago / max(1, batches)
    if max_steps == inf or batches / all_batches > steps / max_steps:
        return batches * share, all_batches
    return steps * share, max_steps

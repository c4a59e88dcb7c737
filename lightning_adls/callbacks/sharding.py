"""Strategies that give each device a part of every weight."""

import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_adls.errors import InputValueError

_SHARDING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def refuse_sharded(who: str, trainer: L.Trainer, instead: str) -> None:
    """Refuse to look at weights of which each process has a part.

    Args:
        who: Begins the message.
        trainer: Whose strategy shards the model, or not.
        instead: What the user shall do.

    Raises:
        InputValueError: If it does.
    """
    if isinstance(trainer.strategy, _SHARDING):
        raise InputValueError(
            f"{who}: {type(trainer.strategy).__name__} gives each device a part of every weight, "
            f"and it looks at whole ones; {instead}, or use strategy='ddp'."
        )

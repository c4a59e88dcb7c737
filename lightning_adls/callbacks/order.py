"""Callbacks that average a module copy it in their ``setup``: layers must be swapped before."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import AveragedModel

from lightning_adls.errors import InputValueError


@contextmanager
def refuse_earlier_copies(
    callback: L.Callback, trainer: L.Trainer, module: L.LightningModule
) -> Iterator[None]:
    """Refuse to swap layers of ``module`` where an average of it is without the new ones.

    Such an average is paired with the module by position and saved in its place, so that scales
    and weights get mixed up, or what is saved rounds nothing.

    Args:
        callback: Whose ``setup`` swaps layers, within the context.
        trainer: Whose callbacks before that one may hold a copy of the module.
        module: Its modules and buffers are compared before and after.

    Raises:
        ValueError: If there are new ones and there is such a callback.
    """
    before = _parts(module)
    yield
    if trainer.state.fn != TrainerFn.FITTING or before == _parts(module):
        return
    for other in _before(callback, trainer):
        if _averages(other):
            who = type(callback).__name__
            raise InputValueError(
                f"{who}: callbacks has {type(other).__name__} before it, which averages the module "
                f"without its new layers; put {who} first."
            )


def _parts(module: L.LightningModule) -> tuple[list[int], list[str]]:
    """Its modules, and its buffers by name: masks of a layer that was there before are new, too."""
    return [id(part) for part in module.modules()], [name for name, _ in module.named_buffers()]


def _before(callback: L.Callback, trainer: L.Trainer) -> list[L.Callback]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks[: callbacks.index(callback)] if callback in callbacks else []


def _averages(callback: L.Callback) -> bool:
    if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
        return True
    return any(isinstance(value, AveragedModel) for value in vars(callback).values())

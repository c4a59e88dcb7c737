"""Masks under callbacks that average a module: they are taken over, not averaged."""

from collections.abc import Iterator

import lightning as L
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer


def refuse_averaged_masks(
    callback: L.Callback, trainer: L.Trainer, module: L.LightningModule
) -> None:
    """Refuse an average over buffers whose rule cannot take the masks of ``module``.

    Args:
        callback: Begins the error message.
        trainer: Its callbacks have been set up.
        module: What is averaged.

    Raises:
        ValueError: If there is such an average, and a mask.
    """
    if not any(True for _ in _masked(module)):
        return
    for other, average in _averages(trainer):
        if average.use_buffers and not _keeps_masks(average):
            raise InputValueError(
                f"{type(callback).__name__}: callbacks has {type(other).__name__} with "
                "use_buffers=True, whose rule of averaging cannot be applied to masks; give it "
                "use_buffers=False."
            )


def copy_masks(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Give all averages of ``module`` its masks; an average of what was pruned lags behind."""
    for _, average in _averages(trainer):
        copies = dict(_masked(average.module))
        for name, layer in _masked(module):
            mask, own = copies[name].weight_mask, layer.weight_mask
            assert mask is not None
            assert own is not None
            mask.copy_(own)


def _masked(module: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer) and layer.weight_mask is not None:
            yield name, layer


def _averages(trainer: L.Trainer) -> Iterator[tuple[L.Callback, AveragedModel]]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        for value in vars(callback).values():
            if isinstance(value, AveragedModel):
                yield callback, value


def _keeps_masks(average: AveragedModel) -> bool:
    """Whether a mask averaged with itself is the mask: differences of bool are an error."""
    probe = nn.Module()
    probe.register_buffer("weight_mask", torch.tensor([True, False]))
    trial = AveragedModel(
        probe, avg_fn=average.avg_fn, multi_avg_fn=average.multi_avg_fn, use_buffers=True
    )
    try:
        for _ in range(3):
            trial.update_parameters(probe)
    except RuntimeError:
        return False
    return torch.equal(trial.module.weight_mask, probe.weight_mask)  # type: ignore[arg-type]

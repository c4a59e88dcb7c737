"""Lightning's ``ModelPruning``, whose masks are torch's, beside callbacks that swap layers."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer


def refuse_torch_pruning(
    callback: L.Callback, trainer: L.Trainer, module: L.LightningModule
) -> None:
    """Refuse a fit in which torch's pruning would mask weights of the swapped layers.

    Args:
        callback: Whose ``setup`` has swapped layers.
        trainer: Whose callbacks are asked, those before and after that one.
        module: With its new layers.

    Raises:
        ValueError: If a ``ModelPruning`` masks such weights, or holds layers that are gone.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(other, ModelPruning) and _reaches_quantised(other, module):
            who = type(callback).__name__
            raise InputValueError(
                f"{who}: callbacks has {type(other).__name__}, which cannot mask the layers that "
                f"{who} makes; use lightning_adls.callbacks.Pruning in its place."
            )


def _reaches_quantised(pruning: ModelPruning, module: nn.Module) -> bool:
    present = set(module.modules())
    # What the user listed; all if it was not set up yet and nothing was listed.
    pairs: Sequence[tuple[nn.Module, str]] = pruning._parameters_to_prune or [
        (layer, name) for layer in present for name in pruning._parameter_names
    ]
    return any(
        layer not in present or (name == "weight" and isinstance(layer, QuantizedLayer))
        for layer, name in pairs
    )

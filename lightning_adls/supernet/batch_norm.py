"""Running statistics of batch normalisation, which differ from recipe to recipe."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lightning_adls.errors import InputValueError


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Those layers of batch normalisation that keep running statistics."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]


@torch.no_grad()
def recalibrate_batch_norm(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None
) -> None:
    """Take the running statistics of batch normalisation anew, from training data.

    In a training for many recipes they are averages over all of these, and suit none (Yu and Huang
    2019, arXiv:1903.05134, "Post-Statistics of Batch Normalization"). Here they become the plain
    mean over the batches of what each batch has. All other layers are in eval mode, so that nothing
    random happens; modes are as before in the end. A module without such layers stays as it is and
    is not called.

    Args:
        module: Changed in place.
        batches: Training batches, on the device of the module.
        forward: Runs the module on a batch; by default the module is called with the batch.

    Raises:
        ValueError: If there are such layers and no batch.
    """
    norms = batch_norms(module)
    if not norms:
        return
    modes = [(part, part.training) for part in module.modules()]
    momenta = [norm.momentum for norm in norms]
    ran = False
    try:
        module.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # torch averages over all batches then
        for batch in batches:
            if not ran:
                for norm in norms:
                    norm.reset_running_stats()
            (forward or module)(batch)
            ran = True
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, training in modes:  # parents first, so that children have the last word
            part.train(training)
    if not ran:
        raise InputValueError(
            "recalibrate_batch_norm: batches is empty; at least one batch is needed."
        )

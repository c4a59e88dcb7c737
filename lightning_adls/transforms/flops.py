"""How many floating-point operations a model spends on one sample."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_adls.errors import InputValueError


def flops_per_sample(model: nn.Module, tokens: int) -> int:
    """Floating-point operations of one forward pass over one text.

    A multiplication and an addition count as two operations. Counted is what torch's
    ``FlopCounterMode`` knows: matrix products and convolutions, attention among them, adapters
    included. Norms, activations, biases and rounding are left out.

    Args:
        model: Takes ``input_ids`` and ``attention_mask``, both ``(batch, tokens)``. Its mode stays
            as it is.
        tokens: Length of the text, padding included, 1 to the model's number of positions.

    Raises:
        ValueError: If ``tokens`` is below 1.
    """
    if tokens < 1:
        raise InputValueError(f"flops_per_sample: tokens={tokens} is below 1.")
    device = next(model.parameters()).device
    inputs = torch.ones(1, tokens, dtype=torch.int64, device=device)
    with counting_flops(model) as counter:
        model(input_ids=inputs, attention_mask=inputs)
    return counter.get_total_flops()


@contextmanager
def counting_flops(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Count what is computed within, without gradients; ``model`` is in eval mode meanwhile."""
    training = [module for module in model.modules() if module.training]
    counter = FlopCounterMode(display=False)
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        # What torch fuses of an attention or an encoder layer has no formula either.
        torch.backends.mha.set_fastpath_enabled(False)
        # The counter knows no formula for the CPU's fused attention; this one is two products.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module in training:
            module.training = True

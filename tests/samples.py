"""A plain layer of each kind with an input, and what quantises it: what holds for all layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Pair = tuple[nn.Module, Tensor]


def linear() -> Pair:
    return nn.Linear(16, 5), torch.randn(4, 3, 16)


def conv1d() -> Pair:
    layer = nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2, padding_mode="circular")
    return layer, torch.randn(2, 6, 9)


def conv2d() -> Pair:
    return nn.Conv2d(3, 4, (3, 2), dilation=2, bias=False), torch.randn(2, 3, 8, 7)


def conv3d() -> Pair:
    return nn.Conv3d(3, 4, (3, 2, 1)), torch.randn(2, 3, 4, 5, 3)


def conv_transpose1d() -> Pair:
    layer = nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
    return layer, torch.randn(2, 6, 5)


def conv_transpose2d() -> Pair:
    return nn.ConvTranspose2d(3, 4, (3, 2), dilation=2, bias=False), torch.randn(2, 3, 4, 5)


def conv_transpose3d() -> Pair:
    return nn.ConvTranspose3d(4, 6, (1, 2, 3), stride=2, groups=2), torch.randn(2, 4, 2, 3, 2)


def attention() -> Pair:
    return nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True), torch.randn(3, 5, 8)


def transformers_conv1d() -> Pair:
    layer = Conv1D(5, 16)
    nn.init.normal_(layer.weight)  # Transformers' are so small that they round to 0
    return layer, torch.randn(4, 3, 16)


def embedding() -> Pair:
    return nn.Embedding(12, 8, padding_idx=0), torch.randint(12, (3, 5))


PAIRS: dict[str, Callable[[], Pair]] = {
    "Linear": linear,
    "Conv1d": conv1d,
    "Conv2d": conv2d,
    "Conv3d": conv3d,
    "ConvTranspose1d": conv_transpose1d,
    "ConvTranspose2d": conv_transpose2d,
    "ConvTranspose3d": conv_transpose3d,
    "MultiheadAttention": attention,
    "TransformersConv1D": transformers_conv1d,
    "Embedding": embedding,
}
# Backends and the kinds that they have layers of.
BACKENDS = [*(("standard", kind) for kind in PAIRS), ("mase", "Linear")]


def call(layer: Any, x: Tensor) -> Tensor:
    """The output for an input: of an attention, to that itself."""
    output: Tensor = layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x)
    return output

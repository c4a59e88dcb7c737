"""A plain layer of each kind with an input, and what quantises it: what holds for all layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Pair = tuple[nn.Module, Tensor]


def linear() -> Pair:
    return nn.Linear(16, 5), torch.randn(4, 3, 16)


def conv1d() -> Pair:
    layer = nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2, padding_mode="circular")
    return layer, torch.randn(2, 6, 9)


def conv2d() -> Pair:
    return nn.Conv2d(3, 4, (3, 2), dilation=2, bias=False), torch.randn(2, 3, 8, 7)


def embedding() -> Pair:
    return nn.Embedding(12, 8, padding_idx=0), torch.randint(12, (3, 5))


PAIRS: dict[str, Callable[[], Pair]] = {
    "Linear": linear,
    "Conv1d": conv1d,
    "Conv2d": conv2d,
    "Embedding": embedding,
}
# Backends and the kinds that they have layers of.
BACKENDS = [*(("standard", kind) for kind in PAIRS), ("mase", "Linear")]

"""What a sample is rounded to does not depend on the samples beside it, but for some formats."""

import pytest
import torch
from torch import Tensor, nn

from lightning_adls.formats import Binary, MXInt, NumberFormat, ResidualSign, Ternary
from lightning_adls.layers import LayerFormats, QuantizedLayer, builder

EACH = "per_channel"  # the first dimension of an activation counts samples
ALONE = [
    *(cls() for name, cls in NumberFormat.classes.items() if name != "Ternary"),
    *(Ternary(scale=EACH), Binary(scale=EACH), ResidualSign(scale=EACH)),
    *(MXInt(block_size=-1), MXInt(block_size=(2, 8)), MXInt(block_size=(-1, -1))),
]
# They take a mean over the whole tensor: over the batch, its padding included.
TOGETHER = [
    *(Ternary(), Ternary(scale="per_tensor"), Binary(scale="per_tensor")),
    ResidualSign(scale="per_tensor"),
]


def evaluating(fmt: NumberFormat, shape: tuple[int, ...]) -> tuple[QuantizedLayer, Tensor]:
    layer = builder("standard")(nn.Linear(32, 4), LayerFormats(input=fmt))
    x = torch.randn(shape) * torch.arange(1, shape[0] + 1).view(-1, *(1,) * (len(shape) - 1))
    layer(x)  # fits learned scales
    return layer.eval(), x


def is_split(layer: QuantizedLayer, x: Tensor) -> bool:
    with torch.inference_mode():
        parts = [layer.rounded_input(part) for part in x.split(2)]
        return torch.equal(layer.rounded_input(x), torch.cat(parts))


@pytest.mark.parametrize("fmt", ALONE, ids=str)
def test_a_sequence_is_rounded_alike_in_batches_of_any_size(fmt: NumberFormat) -> None:
    assert is_split(*evaluating(fmt, (6, 5, 32)))


@pytest.mark.parametrize("fmt", TOGETHER, ids=str)
def test_means_over_the_tensor_are_over_the_batch(fmt: NumberFormat) -> None:
    assert not is_split(*evaluating(fmt, (6, 5, 32)))


def test_a_tile_of_several_rows_of_features_is_one_of_several_samples() -> None:
    assert not is_split(*evaluating(MXInt(block_size=(4, 8)), (6, 32)))
    assert is_split(*evaluating(MXInt(block_size=8), (6, 32)))

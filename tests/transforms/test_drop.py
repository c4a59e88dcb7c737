"""Leaving layers out."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.quantize import Quantize


@pytest.fixture
def square() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))


def test_a_dropped_layer_hands_its_input_on(square: nn.Sequential) -> None:
    x = torch.randn(4, 8)
    expected = square[3](square[2](x.tanh()))
    Drop(["0"])(square)
    assert torch.equal(square(x), expected)
    assert not [name for name, _ in square.named_parameters() if name.startswith("0.")]


def test_patterns_and_quantised_layers_are_dropped(square: nn.Sequential) -> None:
    Quantize({"0": "MXInt"})(square)
    square.eval()
    Drop(["[02]"])(square)
    assert [type(layer) for layer in square] == [nn.Identity, nn.Tanh, nn.Identity, nn.Linear]
    assert not square[0].training


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["0", "3"], "Drop: layer '3' maps 8 to 3 features"),
        (["0", "head.*"], r"Drop: pattern 'head\.\*' matches none of the 3 layers"),
        ([], r"Drop: layers=\[\] is not a list"),
        ("0", "Drop: layers='0' is not a list"),
    ],
)
def test_layers_that_cannot_be_dropped_are_refused_before_any_is(
    square: nn.Sequential, layers: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Drop(layers)(square)
    assert isinstance(square[0], nn.Linear)

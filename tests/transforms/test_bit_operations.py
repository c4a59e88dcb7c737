"""Multiply-accumulates by hand and by hooks, and their bits in every format."""

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.formats import MXInt, NumberFormat
from lightning_adls.layers import KINDS, LayerFormats
from lightning_adls.transforms import LoRA, Pack, Quantize
from lightning_adls.transforms.bit_operations import Macs, bit_operations, macs_of
from lightning_adls.transforms.flops import flops_per_sample

# By kind: a layer, its input, and what it multiplies by hand.
HANDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "Linear": (lambda: nn.Linear(8, 3), (1, 5, 8), 5 * 8 * 3),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (1, 4, 9), 7 * 6 * 2 * 3),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (1, 2, 4, 5), 4 * 5 * 3 * 2 * 9),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, stride=2), (1, 1, 4, 4, 4), 8 * 2 * 8),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (1, 4, 9), 4 * 9 * 6 * 3),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        (1, 4, 5, 5),
        4 * 25 * 3 * 9,
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2), (1, 1, 3, 3, 3), 27 * 2 * 8),
    "MultiheadAttention": (lambda: Attending(), (1, 5, 8), 3 * 5 * 8 * 8),
    "TransformersConv1D": (lambda: Conv1D(3, 8), (1, 5, 8), 5 * 8 * 3),
    "Embedding": (lambda: nn.Embedding(4, 3), (1, 5), 0),
}


class Attending(nn.Module):
    """Attends from its input to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


def example_of(shape: tuple[int, ...]) -> Tensor:
    return torch.ones(shape, dtype=torch.int64 if len(shape) == 2 else torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_each_kind_multiply_what_they_do_by_hand(kind: str) -> None:
    make, shape, by_hand = HANDS[kind]
    model = nn.Sequential(make())
    plain = macs_of(model, example_of(shape))
    if kind == "MultiheadAttention":
        # Unrounded it also does what its output projection would: all at 32 bits.
        assert plain == Macs({"0.attention": by_hand}, others=5 * 8 * 8 + 2 * 5 * 5 * 8)
    else:
        assert plain.total == by_hand
    assert bit_operations(model, plain) == 32 * 32 * plain.total

    Quantize({"*": {"weight": MXInt(width=4)}}, kinds=[kind])(model)
    rounded = macs_of(model, example_of(shape))
    assert rounded.total == plain.total
    saved = 32 * (32 - 4) * by_hand
    assert bit_operations(model, rounded) == 32 * 32 * plain.total - saved


def by_hooks(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, int]:
    """Inputs' rows times the size of the weight, of each linear layer."""
    found: dict[str, int] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(
                lambda layer, inputs, _, name=name: found.update(
                    {name: prod(inputs[0].shape[:-1]) * layer.weight.numel()}
                )
            )
    model(*args, **kwargs)
    return found


def test_a_transformer_multiplies_what_hooks_see_and_its_attention(tiny_bert: nn.Module) -> None:
    tokens = torch.ones(1, 7, dtype=torch.int64)
    found = macs_of(tiny_bert, input_ids=tokens, attention_mask=tokens)
    assert found.weights == by_hooks(tiny_bert, input_ids=tokens, attention_mask=tokens)
    assert found.others == 2 * 7 * 7 * 16  # scores, and the sums that they weigh
    assert found.total == flops_per_sample(tiny_bert, 7) / 2


def test_torchs_encoder_layer_is_counted_whole() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    found = macs_of(layer, torch.ones(1, 5, 16))
    assert found.total == 5 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16
    assert torch.backends.mha.get_fastpath_enabled()


widths = st.integers(2, 16)


@given(widths, widths, widths, widths)
def test_operations_are_the_sum_over_layers_of_both_widths(a: int, b: int, c: int, d: int) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    macs = macs_of(model, torch.ones(3, 8))
    texts = [f"Integer(width={width}, frac_width=1)" for width in (a, b, c, d)]
    Quantize(
        {"0": {"input": texts[0], "weight": texts[1]}, "2": {"input": texts[2], "weight": texts[3]}}
    )(model)
    assert bit_operations(model, macs) == 3 * (32 * a * b + 8 * c * d)


@pytest.mark.parametrize(("name", "role"), [*product(NumberFormat.classes, ("input", "weight"))])
def test_a_format_counts_with_the_bits_of_its_elements(name: str, role: str) -> None:
    model, fmt = nn.Sequential(nn.Linear(32, 4)), NumberFormat.classes[name]()
    macs = macs_of(model, torch.ones(1, 32))
    Quantize({"*": LayerFormats(**{role: fmt})})(model)
    assert bit_operations(model, macs) == 32 * 4 * 32 * fmt.code_bits
    assert macs_of(model, torch.ones(1, 32)) == macs


def test_what_is_switched_off_is_full_precision_and_a_packed_weight_is_not() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 4))
    macs = macs_of(model, torch.ones(1, 32))
    Quantize({"*": "MXInt(width=8)"})(model)
    model[0].enabled = False
    assert bit_operations(model, macs) == 32 * 4 * 32 * 32
    Pack()(model)
    assert bit_operations(model, macs) == 32 * 4 * 32 * 8
    model[0].enabled = True
    assert bit_operations(model, macs) == 32 * 4 * 8 * 8
    assert macs_of(model, torch.ones(1, 32)) == macs


def test_adapters_multiply_in_full_precision_beside_a_rounded_layer(tiny_bert: nn.Module) -> None:
    tokens = torch.ones(1, 7, dtype=torch.int64)
    plain = macs_of(tiny_bert, input_ids=tokens, attention_mask=tokens)
    Quantize({"*.query": "Integer(width=4, frac_width=2)"})(tiny_bert)
    LoRA(layers=("*.query",), rank=2)(tiny_bert)
    found = macs_of(tiny_bert, input_ids=tokens, attention_mask=tokens)
    adapters = 2 * 7 * 16 * 2
    assert found.total == plain.total + adapters
    saved = 7 * 16 * 16 * (32 * 32 - 4 * 4)
    assert bit_operations(tiny_bert, found) == 32 * 32 * (plain.total + adapters) - saved


def test_counting_leaves_the_model_as_it_is(mlp: nn.Sequential) -> None:
    mlp[1].eval()
    modes = [module.training for module in mlp.modules()]
    assert macs_of(mlp, torch.ones(1, 16)).total == 16 * 32 + 32 * 8 + 8 * 2
    assert [module.training for module in mlp.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mlp.modules())
    assert all(p.grad is None for p in mlp.parameters())


def test_what_torch_cannot_count_is_refused_by_name() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.lstm(x)[0]
            return output

    with pytest.raises(ValueError, match="macs_of: the products of 'lstm', a LSTM, are not count"):
        macs_of(Recurrent(), torch.ones(2, 1, 4))

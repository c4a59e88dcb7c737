"""Layers of every kind multiply with weights that stay in the codes of their formats."""

import copy
from typing import Any, cast

import pytest
import torch
from samples import PAIRS, call
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, MXInt, NumberFormat
from lightning_adls.kernels.encoding import encode
from lightning_adls.layers import LayerFormats, QuantizedLayer, quantized, weight_of
from lightning_adls.layers.coded_weight import CodedWeight
from lightning_adls.transforms.bake import bake
from lightning_adls.transforms.cost import costs, summarize
from lightning_adls.transforms.pack import memory

MXINT3 = MXInt(width=3, block_size=4)
FORMATS = [cls() for cls in NumberFormat.classes.values()]


def coded(layer: QuantizedLayer, keeps: bool = False) -> QuantizedLayer:
    """A copy of ``layer`` whose weight is in codes."""
    layer = copy.deepcopy(layer)
    fmt, weight = layer.formats.weight, weight_of(layer)
    assert fmt is not None
    matrix = encode(fmt, layer.to_rows(weight), layer.scales_of("weight"))
    kept = CodedWeight(matrix, layer.row_order(), keeps)
    layer.keep_codes(nn.Parameter(kept, requires_grad=False))
    return layer


def made(kind: str, fmt: NumberFormat = MXINT3) -> tuple[QuantizedLayer, Tensor]:
    torch.manual_seed(0)
    plain, x = PAIRS[kind]()
    rounds_input = None if kind == "Embedding" else MXInt(width=8)
    layer = quantized(plain, LayerFormats(rounds_input, fmt)).eval()
    for role in ("input", "weight"):
        if (fitted := layer.fitted_of(role)) is not None:
            fitted.fill_(1.0)
    return layer, x


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_outputs_are_those_of_the_layer_that_rounds(kind: str, keeps: bool) -> None:
    layer, x = made(kind)
    packed = coded(layer, keeps)
    for _ in range(2):  # the second time from what is kept
        assert torch.equal(call(packed, x), call(layer, x))
    weight = weight_of(packed)
    assert isinstance(weight, CodedWeight)
    assert weight.shape == weight_of(layer).shape
    assert weight.nbytes < weight_of(layer).nbytes / 4


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_format_can_be_multiplied_with(fmt: NumberFormat) -> None:
    layer, x = made("Linear", fmt)
    assert torch.equal(call(coded(layer), x), call(layer, x))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_graph_of_the_layer_is_whole_and_computes_the_same(kind: str) -> None:
    layer, x = made(kind)
    torch._dynamo.reset()
    graph: Any = torch.compile(coded(layer), fullgraph=True, backend="aot_eager")
    inputs = (x, x, x, None, False) if kind == "MultiheadAttention" else (x,)
    with torch.no_grad():
        outputs, expected = graph(*inputs), layer(*inputs)
    if kind == "MultiheadAttention":
        outputs, expected = outputs[0], expected[0]
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("kind", PAIRS)
def test_copies_and_conversions_stay_in_codes(kind: str) -> None:
    layer, x = made(kind)
    copied = copy.deepcopy(coded(layer, keeps=True))
    assert isinstance(weight_of(copied), CodedWeight)
    assert torch.equal(call(copied, x), call(layer, x))
    converted = copied.to(torch.float64)
    assert isinstance(weight_of(converted), CodedWeight)
    assert weight_of(converted).dtype == torch.float64
    rounded = layer.rounded_weight().double()
    assert torch.equal(converted.rounded_weight(), rounded)


def test_the_state_dict_has_the_values_and_takes_no_others() -> None:
    layer, _ = made("Linear")
    packed = coded(layer)
    state = packed.state_dict()
    assert torch.equal(state["weight"], layer.rounded_weight())
    assert type(state["weight"]) is Tensor
    packed.load_state_dict(state)
    with pytest.raises((InputValueError, RuntimeError), match="packed and cannot be written"):
        packed.load_state_dict(layer.state_dict())


def test_what_is_kept_cannot_be_written_into() -> None:
    layer, x = made("Linear")
    packed = coded(layer, keeps=True)
    expected = call(packed, x)
    with pytest.raises(InputValueError, match="packed and cannot be written"):
        weight_of(packed).data.mul_(2)
    weight_of(packed).requires_grad_(True)
    with pytest.raises(InputValueError, match="packed and cannot be written"), torch.no_grad():
        weight_of(packed).add_(1.0)
    assert torch.equal(call(packed, x), expected)


def test_what_was_decoded_in_inference_mode_serves_gradients_later() -> None:
    layer, x = made("Linear")
    packed = coded(layer, keeps=True)
    with torch.inference_mode():
        call(packed, x)
    packed.requires_grad_(True)
    call(packed, x.requires_grad_()).sum().backward()
    assert x.grad is not None


def test_codes_of_another_format_than_the_layers_are_rounded_like_any_weight() -> None:
    layer, x = made("Linear")
    packed = coded(layer)
    other = quantized(packed, LayerFormats(weight=Integer(width=4, frac_width=3)))
    plain = nn.Linear(16, 5)
    plain.weight.data, plain.bias.data = layer.rounded_weight(), cast(Tensor, layer.bias).data
    expected = quantized(plain, LayerFormats(weight=Integer(width=4, frac_width=3)))
    assert torch.equal(call(other.eval(), x), call(expected.eval(), x))
    with_mask = copy.deepcopy(packed)
    with_mask.weight_mask = torch.rand(5, 16) < 0.5
    masked = layer.rounded_weight().masked_fill(~with_mask.weight_mask, 0.0)
    assert torch.equal(with_mask.rounded_weight(), masked)


def test_costs_and_memory_count_the_codes() -> None:
    layer, _ = made("Linear", MXInt(width=4, block_size=16))
    model = nn.Sequential(coded(layer))
    expected = costs(nn.Sequential(layer))
    assert costs(model) == pytest.approx(expected)
    sizes = memory(model)
    assert (sizes["packed_codes"], sizes["packed_exponents"]) == (5 * 16 // 2, 5)
    assert "4.50 bits per weight" in summarize(model)


def test_a_plain_layer_can_be_made_of_it() -> None:
    layer, x = made("Linear")
    layer = quantized(layer, LayerFormats(weight=MXINT3)).eval()
    model = nn.Sequential(coded(layer))
    bake(model)
    assert type(model[0]) is nn.Linear
    assert torch.equal(model(x), call(layer, x))

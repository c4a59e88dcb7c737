"""PackedLinear: the outputs of QuantizedLinear from a quarter of the bytes."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_adls.formats import Binary, Integer, LearnedInteger, MXInt, NumberFormat
from lightning_adls.layers import LayerFormats, QuantizedLinear
from lightning_adls.layers.packed import PackedLinear

MXINT8 = MXInt(width=8, block_size=32)
INPUTS = [None, MXINT8, Integer(width=8, frac_width=5), LearnedInteger()]


def layer_of(formats: LayerFormats, linear: nn.Linear | None = None) -> QuantizedLinear:
    return QuantizedLinear.from_layer(linear or nn.Linear(70, 8), formats).eval()


@given(
    st.integers(1, 100),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(INPUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.booleans(),
)
def test_outputs_are_those_of_the_quantised_layer(
    inputs: int,
    outputs: int,
    bias: bool,
    fmt: NumberFormat | None,
    dtype: torch.dtype,
    masked: bool,
) -> None:
    formats = LayerFormats(fmt, MXINT8, Integer(width=8, frac_width=6))
    layer = layer_of(formats, nn.Linear(inputs, outputs, bias, dtype=dtype))
    layer.input_sparsity = 0.25
    if masked:
        layer.weight_mask = torch.rand(outputs, inputs) > 0.5
    packed, x = PackedLinear.from_linear(layer), torch.randn(3, 2, inputs, dtype=dtype)
    assert torch.equal(packed.rounded_weight(dtype), layer.rounded_weight())
    assert torch.equal(packed(x), layer(x))
    assert packed(x).dtype == dtype


def test_learned_scales_go_with_the_layer() -> None:
    layer = layer_of(LayerFormats(LearnedInteger(), MXINT8, LearnedInteger())).train()
    layer(torch.randn(4, 70))  # fits the scales
    packed, x = PackedLinear.from_linear(layer.eval()), torch.randn(3, 70) * 9
    assert packed.input_scales is layer.input_scales
    assert torch.equal(packed(x), layer(x))
    assert {"input_scales", "bias_scales"} <= set(packed.state_dict())


def test_a_plain_layer_is_packed_without_rounding_its_input() -> None:
    linear, x = nn.Linear(70, 8), torch.randn(3, 70)
    packed = PackedLinear.from_linear(linear)
    assert packed.bias is linear.bias
    assert torch.equal(packed(x), nn.functional.linear(x, MXINT8(linear.weight), linear.bias))
    only_masked = layer_of(LayerFormats(), linear)
    only_masked.weight_mask = torch.rand(8, 70) > 0.5
    expected = MXINT8(linear.weight) * only_masked.weight_mask
    packed = PackedLinear.from_linear(only_masked)
    assert torch.equal(packed.rounded_weight(), expected)
    assert list(packed.state_dict()) == [
        "bias",
        "codes",
        "exponents",
        "_extra_state",
    ]  # no mask of its own


def test_a_mask_keeps_the_exponents_of_the_blocks() -> None:
    layer = layer_of(LayerFormats(weight=MXINT8), nn.Linear(32, 1))
    with torch.no_grad():
        layer.weight.fill_(1.01)[0, 0] = 64
    layer.weight_mask = torch.ones(1, 32, dtype=torch.bool)
    layer.weight_mask[0, 0] = False
    weight = PackedLinear.from_linear(layer).rounded_weight()
    assert torch.equal(weight, layer.rounded_weight())
    assert weight[0, 1] == 1


def test_other_formats_can_be_chosen_for_input_and_bias() -> None:
    linear, x = nn.Linear(70, 8), torch.randn(3, 70)
    formats = LayerFormats(MXINT8, MXINT8, MXINT8)
    packed = PackedLinear.from_layer(linear, formats)
    assert torch.equal(packed(x), layer_of(formats, linear)(x))


def test_the_input_decides_the_data_type() -> None:
    packed = PackedLinear.from_linear(nn.Linear(70, 8))
    for dtype in (torch.bfloat16, torch.float64):
        assert packed(torch.randn(3, 70, dtype=dtype)).dtype == dtype
    codes = packed.codes.clone()
    packed.to(torch.bfloat16)
    assert torch.equal(packed.codes, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed(torch.randn(3, 70)).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_the_weight_has_no_gradient_but_input_and_bias_have(training: bool) -> None:
    packed = PackedLinear.from_linear(nn.Linear(70, 8).train(training))
    assert packed.training is training
    assert [name for name, p in packed.named_parameters() if p.requires_grad] == ["bias"]
    x = torch.randn(3, 70, requires_grad=True)
    packed(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0], packed.rounded_weight().sum(0))
    assert packed.bias is not None
    assert packed.bias.grad is not None


@pytest.mark.parametrize("bias", [True, False])
def test_the_packed_tensors_come_back_from_a_file(tmp_path: Path, bias: bool) -> None:
    packed = PackedLinear.from_linear(nn.Linear(70, 8, bias))
    save_file(packed.state_dict(), tmp_path / "packed.safetensors")
    other = PackedLinear(70, 8, bias)
    assert not other.rounded_weight().any()
    other.load_state_dict(load_file(tmp_path / "packed.safetensors"))
    x = torch.randn(3, 70)
    assert torch.equal(other(x), packed(x))


def test_the_state_is_a_quarter_of_the_weight() -> None:
    linear = nn.Linear(256, 64, bias=False)
    size = PackedLinear.from_linear(linear).weight.nbytes
    assert size / linear.weight.nbytes == 8.25 / 32


def test_an_unpacked_checkpoint_is_refused() -> None:
    model = nn.Sequential(PackedLinear(70, 8))
    masked = layer_of(LayerFormats())
    masked.weight_mask = torch.ones(8, 70, dtype=torch.bool)
    for layer in (nn.Linear(70, 8), masked):
        with pytest.raises(ValueError, match=r"0\.weight is not packed; load the checkpoint into"):
            model.load_state_dict(nn.Sequential(layer).state_dict())


def test_a_copy_is_independent() -> None:
    packed = PackedLinear.from_linear(nn.Linear(70, 8))
    twin = copy.deepcopy(packed)
    packed.codes.zero_()
    assert twin.rounded_weight().any()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_layer_compiles_to_one_graph(backend: str) -> None:
    packed = PackedLinear.from_linear(layer_of(LayerFormats(MXINT8, MXINT8))).requires_grad_(False)
    torch._dynamo.reset()
    x = torch.randn(3, 70)
    compiled = torch.compile(packed, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), packed(x))


def test_what_cannot_be_packed_is_refused() -> None:
    for fmt in (Binary(), MXInt(width=4), MXInt(width=8, block_size=16)):
        with pytest.raises(ValueError, match=r"formats\.weight=.* cannot be packed"):
            PackedLinear.from_linear(layer_of(LayerFormats(weight=fmt)))
    with pytest.raises(ValueError, match=r"formats\.weight=None cannot be packed"):
        PackedLinear(4, 2, formats=LayerFormats())
    for layer in (nn.Conv1d(4, 4, 3), nn.Bilinear(4, 4, 1)):
        with pytest.raises(ValueError, match=f"linear={type(layer).__name__} cannot be packed"):
            PackedLinear.from_linear(layer)
    linear = nn.Linear(4, 2)
    nn.init.constant_(linear.weight, torch.nan)
    with pytest.raises(ValueError, match="x holds 8 NaN"):
        PackedLinear.from_linear(linear)


def test_the_gradient_rule_of_the_format_does_not_matter() -> None:
    clipped = layer_of(LayerFormats(weight=MXInt(width=8, ste="clipped")))
    x = torch.randn(3, 70)
    assert torch.equal(PackedLinear.from_linear(clipped)(x), clipped(x))


def test_the_layer_says_what_it_is() -> None:
    text = repr(PackedLinear(70, 8, formats=LayerFormats(Integer(), MXINT8)))
    assert "in_features=70, out_features=8, bias=True, input=Integer" in text
    assert "weight=MXInt(width=8, block_size=32)" in text

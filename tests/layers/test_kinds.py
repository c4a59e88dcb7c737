"""Convolutions and embeddings, and what all kinds of quantised layers share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import PAIRS, call
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.formats import Integer, MXInt, NumberFormat, ResidualSign, Ternary
from lightning_adls.layers import (
    KINDS,
    LayerFormats,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLayer,
    quantized,
    weight_of,
)
from lightning_adls.transforms import Prune, Quantize

FORMATS = [cls() for cls in NumberFormat.classes.values()]


@pytest.fixture(params=PAIRS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    return PAIRS[request.param]()


def same(fmt: NumberFormat) -> LayerFormats:
    return LayerFormats(fmt, fmt, fmt)


def test_without_formats_a_layer_computes_as_the_plain_one(pair: tuple[nn.Module, Tensor]) -> None:
    plain, x = pair
    layer = quantized(plain, LayerFormats())
    torch.testing.assert_close(call(layer, x), call(plain, x))


def test_a_layer_shares_the_parameters_mode_and_keys_of_the_plain_one(
    pair: tuple[nn.Module, Tensor],
) -> None:
    plain, _ = pair
    layer = quantized(plain.eval(), same(MXInt()))
    assert not layer.training
    assert dict(layer.named_parameters()) == dict(plain.named_parameters())
    assert set(layer.state_dict()) == {*plain.state_dict(), "_extra_state"}
    assert isinstance(layer, type(plain))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_format_works_in_every_kind_and_passes_gradients(
    pair: tuple[nn.Module, Tensor], fmt: NumberFormat
) -> None:
    plain, x = pair
    layer = quantized(plain, same(fmt))
    call(layer, x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("fmt", [Integer(4, 2), MXInt(4), Ternary(scale="per_channel")], ids=str)
def test_a_convolution_is_the_linear_layer_on_its_patches(fmt: NumberFormat) -> None:
    # With one pixel per patch, rounding along channels is rounding along the features.
    conv, linear = nn.Conv2d(40, 8, 1), nn.Linear(40, 8)
    conv.weight = nn.Parameter(linear.weight[:, :, None, None])
    conv.bias = linear.bias
    x = torch.randn(2, 40, 3, 5)
    # Ternary's scale per channel would be one per token of an input.
    formats = LayerFormats(None if isinstance(fmt, Ternary) else fmt, fmt, fmt)
    expected = quantized(linear, formats)(x.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(quantized(conv, formats)(x), expected, atol=1e-5)


def test_blocks_of_a_convolutions_weight_run_over_all_that_one_output_sums() -> None:
    conv = nn.Conv2d(8, 2, 2)  # 32 weights per output: one block
    layer = quantized(conv, LayerFormats(weight=MXInt(width=4, block_size=32)))
    rounded = layer.rounded_weight()
    expected = MXInt(width=4, block_size=32)(conv.weight.reshape(2, 32)).reshape(2, 8, 2, 2)
    assert torch.equal(rounded, expected)


def test_a_convolution_takes_single_images() -> None:
    layer = QuantizedConv2d(3, 4, 2, formats=same(MXInt()))
    x = torch.randn(3, 5, 5)
    assert torch.equal(call(layer, x), layer(x[None])[0])


def test_an_embedding_rounds_rows_and_nothing_else() -> None:
    plain, x = PAIRS["Embedding"]()
    layer = quantized(plain, same(Integer(3, 1)))
    assert layer.formats == LayerFormats(weight=Integer(3, 1))
    assert torch.equal(call(layer, x), Integer(3, 1)(call(plain, x)))


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"sparse": True}])
def test_an_embedding_refuses_what_rounding_cannot_do(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"QuantizedEmbedding: {next(iter(options))}="):
        quantized(nn.Embedding(4, 2, **options), same(MXInt()))


def test_a_kind_without_quantised_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="layer=LayerNorm has no quantised kind; there are Linear"):
        quantized(nn.LayerNorm(4), LayerFormats())


def test_a_mask_zeroes_weights_in_every_kind(pair: tuple[nn.Module, Tensor]) -> None:
    layer = quantized(pair[0], LayerFormats(weight=Ternary()))
    layer.weight_mask = torch.rand_like(weight_of(layer)) > 0.5
    assert not layer.rounded_weight()[~layer.weight_mask].any()
    again = quantized(layer, LayerFormats())
    assert again.weight_mask is layer.weight_mask
    assert "weight_mask" in again.state_dict()


def test_a_disabled_layer_rounds_nothing_but_stays_sparse() -> None:
    plain, x = PAIRS["Linear"]()
    layer = quantized(plain, same(Integer(2, 0)))
    layer.eval()
    with torch.no_grad():
        call(layer, x)  # keeps the rounded weight
        layer.enabled = False
        assert torch.equal(call(layer, x), call(plain, x))
        layer.weight_mask = torch.zeros_like(layer.weight, dtype=torch.bool)
        bias = plain.bias
        assert isinstance(bias, Tensor)
        assert torch.equal(call(layer, x), bias.expand(4, 3, 5))


@given(sparsity=st.floats(0.0, 0.99), features=st.integers(1, 40))
def test_input_sparsity_drops_the_smallest_features_of_each_token(
    sparsity: float, features: int
) -> None:
    layer = quantized(nn.Linear(features, 3), LayerFormats())
    layer.input_sparsity = sparsity
    x = torch.randn(4, 5, features)
    kept = layer.rounded_input(x)
    dropped = round(sparsity * features)
    assert ((kept == 0).sum(-1) == dropped).all()
    smallest_kept = x.abs().where(kept != 0, torch.tensor(torch.inf)).amin(-1)
    largest_dropped = x.abs().where(kept == 0, torch.tensor(-1.0)).amax(-1)
    assert (smallest_kept >= largest_dropped).all()
    assert torch.equal(kept[kept != 0], x[kept != 0])


def test_input_sparsity_counts_channels_and_holds_where_no_code_is_zero() -> None:
    layer = quantized(nn.Conv2d(8, 2, 1), LayerFormats(input=ResidualSign()))
    layer.input_sparsity = 0.25
    assert ((layer.rounded_input(torch.randn(2, 8, 3, 3)) == 0).sum(1) == 2).all()


def test_gradients_do_not_pass_dropped_features() -> None:
    layer = quantized(nn.Linear(4, 2), LayerFormats())
    layer.input_sparsity = 0.5
    x = torch.tensor([[3.0, 0.1, -2.0, 0.2]], requires_grad=True)
    call(layer, x).sum().backward()
    assert x.grad is not None
    assert ((x.grad == 0) == torch.tensor([[False, True, False, True]])).all()


class TestLearnedScales:
    """Scales are fitted to the first training batch, and never to what is only evaluated."""

    fmt = NumberFormat.parse("LearnedInteger(width=4)")

    def layer(self) -> QuantizedLayer:
        return quantized(nn.Linear(6, 5), LayerFormats(input=self.fmt, weight=self.fmt))

    def test_the_first_training_batch_fits_them(self) -> None:
        layer, x = self.layer(), 100 * torch.randn(7, 6)
        call(layer, x)
        assert layer.input_scales is not None
        expected = self.fmt.fit_scales(x)
        assert expected is not None
        assert torch.equal(layer.input_scales, expected)
        fitted = layer.input_scales.detach().clone()
        layer(x / 50)
        assert torch.equal(layer.input_scales, fitted)

    def test_evaluation_before_training_follows_the_data_and_keeps_nothing(self) -> None:
        layer, x = self.layer().eval(), 100 * torch.randn(7, 6)
        assert layer.input_scales is not None
        before = layer.input_scales.detach().clone()
        with torch.no_grad():
            call(layer, x)
        assert torch.equal(layer.input_scales, before)
        assert torch.equal(layer.rounded_input(x), self.fmt(x, self.fmt.fit_scales(x)))

    def test_scales_from_a_checkpoint_are_not_fitted_again(self) -> None:
        trained, x = self.layer(), 100 * torch.randn(7, 6)
        trained(x)
        layer = self.layer()
        layer.load_state_dict(trained.state_dict())
        layer(x / 50)
        assert layer.input_scales is not None
        assert trained.input_scales is not None
        assert torch.equal(layer.input_scales, trained.input_scales)

    def test_requantising_keeps_the_scales_of_formats_that_stay(self) -> None:
        layer, x = self.layer(), 100 * torch.randn(7, 6)
        call(layer, x)
        again = quantized(layer, LayerFormats(input=self.fmt, weight=MXInt()))
        assert again.input_scales is layer.input_scales
        assert again.weight_scales is None
        again(x / 50)
        assert again.input_scales is layer.input_scales


def test_state_of_a_quantised_embedding_does_not_load_into_a_plain_one_as_it_is() -> None:
    layer = QuantizedEmbedding(6, 4, formats=LayerFormats(weight=MXInt()))
    with pytest.raises(RuntimeError, match="_extra_state"):
        nn.Embedding(6, 4).load_state_dict(layer.state_dict())


def test_scales_that_are_not_fitted_yet_are_fitted_after_a_checkpoint_too() -> None:
    formats = LayerFormats(weight=NumberFormat.parse("LearnedInteger(width=4)"))
    early, late = quantized(nn.Linear(6, 5), formats), quantized(nn.Linear(6, 5), formats)
    assert not early.state_dict()["weight_fitted"]
    late.load_state_dict(early.state_dict())
    late(torch.randn(2, 6))
    assert late.state_dict()["weight_fitted"]
    assert torch.equal(late.state_dict()["weight_scales"], formats.weight.fit_scales(late.weight))  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("fmt", [Integer(4, 2), MXInt(4), Ternary(scale="per_channel")], ids=str)
def test_a_transposed_convolution_of_one_pixel_is_the_linear_layer(fmt: NumberFormat) -> None:
    transposed, linear = nn.ConvTranspose2d(40, 8, 1), nn.Linear(40, 8)
    transposed.weight = nn.Parameter(linear.weight.T[:, :, None, None])
    transposed.bias = linear.bias
    x = torch.randn(2, 40, 3, 5)
    formats = LayerFormats(None if isinstance(fmt, Ternary) else fmt, fmt, fmt)
    expected = quantized(linear, formats)(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(quantized(transposed, formats)(x), expected)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_rows_of_a_transposed_convolution_are_what_the_outputs_of_a_channel_sum_over(
    groups: int,
) -> None:
    plain = nn.ConvTranspose1d(6, 12, 3, stride=2, groups=groups, bias=False)
    layer: Any = quantized(plain, LayerFormats())
    # Where an output has a gradient at a weight, it sums over it.
    used = []
    for outputs in layer(torch.randn(6, 5)):
        (gradient,) = torch.autograd.grad(outputs.square().sum(), plain.weight, retain_graph=True)
        used.append(gradient != 0)
    numbers = torch.arange(plain.weight.numel()).view_as(plain.weight)
    rows = layer.to_rows(numbers)
    assert rows.shape == (12, 6 // groups * 3)
    for row, mine in zip(rows, used, strict=True):
        assert row.tolist() == numbers[mine].tolist()
    assert torch.equal(layer.from_rows(rows), numbers)


def test_what_transformers_calls_conv1d_is_the_linear_layer() -> None:
    linear, other = nn.Linear(40, 8), Conv1D(8, 40)
    other.weight, other.bias = nn.Parameter(linear.weight.T), linear.bias
    x = torch.randn(2, 3, 40)
    for fmt in (MXInt(4), Ternary(scale="per_channel"), Integer(4, 2)):
        formats = LayerFormats(MXInt(4), fmt, fmt)
        ours: Any = quantized(other, formats)
        theirs = quantized(linear, formats)
        torch.testing.assert_close(ours(x), theirs(x))
        assert torch.equal(ours.rounded_weight().T, theirs.rounded_weight())
        assert isinstance(ours, Conv1D)
    assert repr(ours).startswith("QuantizedTransformersConv1D(nf=8, nx=40, input=MXInt")


@pytest.mark.parametrize(
    "change",
    [
        Quantize({"layer": same(NumberFormat.parse("LearnedInteger(width=4)"))}, tuple(KINDS)),
        Prune(0.0, kinds=tuple(KINDS)).prepare,
    ],
    ids=["Quantize", "Prune"],
)
def test_on_the_meta_device_all_stays_there_and_elsewhere_nothing_gets_there(
    kind: str, change: Callable[[nn.Module], None]
) -> None:
    for device in ("meta", "cpu"):
        with torch.device(device):
            plain, _ = PAIRS[kind]()
        model = nn.ModuleDict({"layer": plain})
        change(model)
        tensors = [*model.parameters(), *model.buffers()]
        assert {t.device.type for t in tensors} == {device}
        assert isinstance(model["layer"], QuantizedLayer)


def test_nothing_can_be_ranked_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Prune: the weight of 0 is on the meta device"):
        Prune(0.5)(model)
    assert type(model[0]) is nn.Linear


def test_lazy_layers_are_left_out_until_they_are_of_a_kind() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(6), nn.LazyConv1d(2, 1))
    recipe = Quantize({"*": MXInt()})
    recipe(model)
    Prune(0.5)(model)
    assert isinstance(model[1], nn.LazyLinear)
    with pytest.raises(ValueError, match="pattern '1' matches none of the 1 layers"):
        Quantize({"1": MXInt()})(model)
    model(torch.randn(6, 6, 4))
    recipe(model)
    assert [type(layer).__name__ for layer in model] == [
        *("QuantizedLinear", "QuantizedLinear", "QuantizedConv1d")
    ]
    assert model(torch.randn(6, 6, 4)).shape == (6, 2, 6)

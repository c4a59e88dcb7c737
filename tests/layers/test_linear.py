"""QuantizedLinear: what it computes, what it shares, what it remembers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_adls.formats import (
    MXFP,
    Binary,
    BlockLog,
    Integer,
    MXInt,
    NumberFormat,
    ResidualSign,
)
from lightning_adls.layers import LayerFormats, QuantizedLinear

FOUR_BITS = Integer(width=4, frac_width=2)


def layer_of(formats: LayerFormats, linear: nn.Linear | None = None) -> QuantizedLinear:
    return QuantizedLinear.from_layer(linear or nn.Linear(16, 8), formats)


def grid(x: Tensor) -> Tensor:
    """Round to FOUR_BITS by trying all sixteen values."""
    values = torch.arange(-8, 8) / 4
    return values[(x[..., None] - values).abs().argmin(-1)]


def test_each_tensor_is_rounded_to_its_own_format() -> None:
    linear, x = nn.Linear(16, 8), torch.randn(3, 16)
    y = layer_of(LayerFormats(weight=FOUR_BITS), linear)(x)
    assert torch.equal(y, nn.functional.linear(x, grid(linear.weight), linear.bias))
    y = layer_of(LayerFormats(input=FOUR_BITS), linear)(x)
    assert torch.equal(y, nn.functional.linear(grid(x), linear.weight, linear.bias))
    y = layer_of(LayerFormats(bias=FOUR_BITS), linear)(x)
    assert torch.equal(y, nn.functional.linear(x, linear.weight, grid(linear.bias)))


def test_parameters_are_the_same_objects_and_keys_the_same() -> None:
    linear = nn.Linear(16, 8)
    layer = layer_of(LayerFormats(MXInt(), MXInt(), MXInt()), linear)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert list(layer.state_dict()) == [*linear.state_dict(), "_extra_state"]


@pytest.mark.parametrize("training", [True, False])
def test_mode_follows_the_replaced_layer(training: bool) -> None:
    assert layer_of(LayerFormats(), nn.Linear(4, 4).train(training)).training is training


def test_a_layer_without_bias_stays_without() -> None:
    layer = layer_of(LayerFormats(bias=FOUR_BITS), nn.Linear(4, 4, bias=False))
    assert "bias" not in layer.state_dict()
    assert layer(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize("fmt", [cls() for cls in NumberFormat.classes.values()], ids=str)
def test_gradients_reach_every_parameter_in_every_format(fmt: NumberFormat) -> None:
    layer = layer_of(LayerFormats(fmt, fmt, fmt))
    x = torch.randn(5, 16, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in [("input", x), *layer.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().sum() > 0, name


def test_learned_scales_of_the_input_are_trained() -> None:
    layer = layer_of(LayerFormats(input=ResidualSign(levels=2)))
    assert layer.input_scales is not None
    before = layer.input_scales.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(5, 16)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.input_scales, before)


def test_mask_is_applied_after_rounding_so_binary_weights_stay_sparse() -> None:
    layer = layer_of(LayerFormats(weight=Binary()))
    layer.weight_mask = torch.rand(8, 16) > 0.5
    assert torch.equal(layer.rounded_weight() == 0, ~layer.weight_mask)


def test_mask_travels_in_the_state_dict() -> None:
    pruned, other = layer_of(LayerFormats()), layer_of(LayerFormats())
    pruned.weight_mask = torch.rand(8, 16) > 0.5
    other.load_state_dict(pruned.state_dict())
    assert other.weight_mask is not None
    assert torch.equal(other.weight_mask, pruned.weight_mask)


def test_unpruned_checkpoint_keeps_the_mask_of_a_pruned_layer() -> None:
    pruned = layer_of(LayerFormats())
    mask = torch.rand(8, 16) > 0.5
    pruned.weight_mask = mask
    pruned.load_state_dict(nn.Linear(16, 8).state_dict())
    assert torch.equal(pruned.weight_mask, mask)


class CountedInteger:
    """Counts how often it rounds; not a registered format."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, scales: None, *, training: bool, batched: bool) -> Tensor:
        self.calls += 1
        return FOUR_BITS(x)


@pytest.fixture
def counted() -> tuple[QuantizedLinear, CountedInteger]:
    layer, fmt = layer_of(LayerFormats()), CountedInteger()
    layer.formats = LayerFormats(weight=fmt)  # type: ignore[arg-type]
    return layer, fmt


Counted = tuple[QuantizedLinear, CountedInteger]


def test_weight_is_rounded_once_while_nothing_trains(counted: Counted) -> None:
    layer, fmt = counted
    layer.eval()
    with torch.no_grad():
        for _ in range(3):
            layer(torch.ones(1, 16))
    assert fmt.calls == 1


def test_weight_is_rounded_each_time_while_it_trains(counted: Counted) -> None:
    layer, fmt = counted
    for _ in range(3):
        layer(torch.ones(1, 16))
    assert fmt.calls == 3


@pytest.mark.parametrize("change", ["optimizer", "load", "data", "mask"])
def test_kept_weight_is_forgotten_when_the_weight_changes(change: str) -> None:
    layer = layer_of(LayerFormats(weight=FOUR_BITS)).eval()
    x = torch.ones(1, 16)
    with torch.no_grad():
        layer(x)
        if change == "optimizer":
            layer.weight.add_(1.0)
        elif change == "load":
            layer.load_state_dict(nn.Linear(16, 8).state_dict())
        elif change == "data":
            layer.weight.data = layer.weight + 1.0
        else:
            layer.weight_mask = torch.zeros(8, 16, dtype=torch.bool)
        kept = layer(x)
        assert torch.equal(kept, copy.deepcopy(layer).train()(x))


def test_weight_kept_in_inference_mode_does_not_break_training_the_rest() -> None:
    layer = layer_of(LayerFormats(weight=FOUR_BITS)).eval().requires_grad_(False)
    with torch.inference_mode():
        layer(torch.ones(1, 16))
    x = torch.ones(1, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


def test_forward_compiles_to_one_graph() -> None:
    layer = layer_of(LayerFormats(FOUR_BITS, MXInt(width=4, block_size=8), FOUR_BITS))
    x = torch.randn(3, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), layer(x))


def test_inductor_trains_a_layer_of_ragged_blocks_as_it_is_trained_eagerly() -> None:
    clipped = (MXFP(ste="clipped"), MXInt(width=4, ste="clipped"), BlockLog(ste="clipped"))
    layer = layer_of(LayerFormats(*clipped), nn.Linear(49, 33))
    net, x = nn.Sequential(layer, nn.GELU()), torch.randn(5, 49)
    torch._dynamo.reset()
    found = []
    for way in (torch.compile(net, fullgraph=True), net):
        net.zero_grad()
        leaf = x.clone().requires_grad_()
        output = way(leaf)
        output.square().sum().backward()
        found.append([output, leaf.grad, *(p.grad for p in net.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)

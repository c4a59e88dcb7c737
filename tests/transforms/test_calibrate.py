"""Calibration: observers against searches over all ranges, and what is observed of a model."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls.formats import Integer, MXInt
from lightning_adls.layers import LayerFormats, QuantizedLayer
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.calibrate import SAMPLE_SIZE, calibrate

CHOSEN = Integer(width=8, frac_width=-100)  # its frac_width is not one that any data here suits

some_values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30)


def chosen(fmt: Integer, x: Tensor, observer: str) -> Integer:
    """What calibration makes of the format of an input that is ``x``."""
    model = nn.ModuleDict({"layer": nn.Linear(x.shape[-1], 1)})
    recipe = Quantize({"*": {"input": fmt}})
    concrete = calibrate(model, recipe, [x], lambda x: model["layer"](x), observer)
    formats = concrete.layers["layer"]
    assert isinstance(formats, LayerFormats)
    assert isinstance(formats.input, Integer)
    return formats.input


def all_ranges(fmt: Integer) -> list[Integer]:
    return [dataclasses.replace(fmt, frac_width=f) for f in range(fmt.width - 128, 127)]


def saturates(fmt: Integer, x: Tensor) -> bool:
    low, high = fmt.limits(x.double())
    return bool((x < low).any() or (x > high).any())


@given(values=some_values, width=st.integers(2, 20), signed=st.booleans())
def test_minmax_is_the_finest_range_that_does_not_saturate(
    values: list[float], width: int, signed: bool
) -> None:
    x, fmt = torch.tensor([values]), Integer(width, 0, signed=signed)
    seen = x if signed else x.clamp(min=0)
    if not seen.any():
        assert chosen(fmt, x, "minmax") == fmt
        return
    fitting = [f for f in all_ranges(fmt) if not saturates(f, seen)]
    assert chosen(fmt, x, "minmax") == fitting[-1]


@given(
    values=some_values,
    width=st.integers(2, 12),
    signed=st.booleans(),
    rounding=st.sampled_from(["nearest", "floor"]),
)
def test_mse_is_the_range_of_least_error(
    values: list[float], width: int, signed: bool, rounding: str
) -> None:
    x, fmt = torch.tensor([values]).double(), Integer(width, 0, rounding, signed)
    if not (x if signed else x.clamp(min=0)).any():
        return

    def error(fmt: Integer) -> float:
        return (fmt(x) - x).square().sum().item()

    best = min(map(error, all_ranges(fmt)))
    assert error(chosen(fmt, x.float(), "mse")) == pytest.approx(best, rel=1e-9)


def test_mse_trades_a_few_outliers_for_the_others() -> None:
    x = torch.cat([torch.randn(1, 9999) * 0.01, torch.tensor([[0.7]])], 1)
    best = min(all_ranges(Integer(3)), key=lambda fmt: (fmt(x) - x).square().sum().item())
    assert chosen(Integer(3), x, "mse") == best
    assert best.frac_width >= chosen(Integer(3), x, "minmax").frac_width + 2


def test_percentile_ignores_the_largest_thousandth_but_not_the_zeros() -> None:
    x = torch.zeros(20, 1000)
    x[:10] = torch.linspace(-0.9, 0.9, 10_000).view(10, 1000)
    x[0, :9] = 1000.0
    bound = np.sort(x[x != 0].abs().numpy())[math.ceil(0.999 * 10_000) - 1]
    assert 0.89 < bound < 0.9
    assert chosen(CHOSEN, x, "percentile").frac_width == 7
    assert chosen(CHOSEN, x, "minmax").frac_width == -3
    x[0, :12] = 1000.0
    assert chosen(CHOSEN, x, "percentile").frac_width == -3


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_a_tensor_of_zeros_keeps_its_format(observer: str) -> None:
    assert chosen(CHOSEN, torch.zeros(3, 4), observer) == CHOSEN


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("magnitude", [1e-38, 3e38])
def test_the_ends_of_float32_stay_within_the_bounds_of_frac_width(
    observer: str, magnitude: float
) -> None:
    fmt = chosen(CHOSEN, torch.tensor([[magnitude, -magnitude]]), observer)
    assert fmt.frac_width == (126 if magnitude < 1 else -120)


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_nan_and_infinity_do_not_count(observer: str) -> None:
    x = torch.randn(4, 100)
    odd = x.clone()
    odd[:, ::7] = torch.tensor([math.nan, math.inf, -math.inf]).repeat(20).view(4, 15)
    x[:, ::7] = 0.0
    assert chosen(CHOSEN, odd, observer) == chosen(CHOSEN, x, observer)


@pytest.mark.parametrize("features", [256, 768, 896, 1000])
def test_the_sample_holds_every_feature_also_of_more_values_than_it_can_hold(features: int) -> None:
    # Half the error is in one feature, which must weigh in the sample what it weighs in the data.
    rows = 8 * SAMPLE_SIZE // features
    for feature in (0, 1, features // 2 + 1):
        x = torch.full((rows, features), 0.01)
        x[:, feature] = 1.0
        assert chosen(Integer(4, 0), x, "mse") == chosen(Integer(4, 0), x[:64], "mse")


def test_weights_biases_and_inputs_are_observed_layer_by_layer(mlp: nn.Sequential) -> None:
    linear = mlp[0]
    assert isinstance(linear, nn.Linear)
    assert linear.bias is not None
    with torch.no_grad():
        linear.weight.mul_(0.01 / linear.weight.abs().max())
        linear.bias.fill_(30.0)
    recipe = Quantize({"*": "Integer(width=8, frac_width=0)", "2": {"weight": "MXInt(width=4)"}})
    batches = [torch.randn(4, 16).clamp(-1, 1), torch.full((4, 16), -6.0)]
    concrete = calibrate(mlp, recipe, batches, observer="minmax")
    assert list(concrete.layers) == ["0", "2", "3.0"]
    assert concrete.layers["0"] == LayerFormats(Integer(8, 4), Integer(8, 13), Integer(8, 2))
    assert concrete.layers["2"] == LayerFormats(weight=MXInt(width=4))
    concrete(mlp)
    assert isinstance(mlp[0], QuantizedLayer)


def test_many_batches_are_observed_as_one(mlp: nn.Sequential) -> None:
    recipe, x = Quantize({"*": "Integer"}), torch.randn(30, 16)
    together = calibrate(mlp, recipe, [x])
    assert calibrate(mlp, recipe, x.split(7)) == together
    assert calibrate(mlp, recipe, iter(x.split(1))) == together


def test_a_convolution_and_an_embedding_are_observed() -> None:
    model = nn.Sequential(
        nn.Embedding.from_pretrained(torch.full((10, 8), 3.0)), nn.Conv1d(8, 4, 3)
    )
    recipe = Quantize({"*": "Integer(width=8, frac_width=0)"}, ("Embedding", "Conv1d"))

    def forward(ids: Tensor) -> Tensor:
        rows: Tensor = model[0](ids)
        out: Tensor = model[1](input=rows.mT)
        return out

    concrete = calibrate(model, recipe, [torch.arange(10).view(1, 10)], forward, "minmax")
    assert concrete.kinds == recipe.kinds
    assert concrete.layers["0"] == LayerFormats(Integer(8, 0), Integer(8, 5), Integer(8, 0))
    assert isinstance(concrete.layers["1"], LayerFormats)
    assert concrete.layers["1"].input == Integer(8, 5)


def test_a_quantised_model_is_observed_without_its_formats(mlp: nn.Sequential) -> None:
    recipe, x = Quantize({"*": "Integer"}), torch.randn(8, 16)
    plain = calibrate(mlp, recipe, [x])
    Quantize({"*": "Binary"})(mlp)
    assert calibrate(mlp, recipe, [x]) == plain
    assert all(m.enabled for m in mlp.modules() if isinstance(m, QuantizedLayer))


def test_weights_that_a_mask_removes_do_not_count(mlp: nn.Sequential) -> None:
    Quantize({"0": "Integer"})(mlp)
    assert isinstance(mlp[0], QuantizedLayer)
    with torch.no_grad():
        mlp[0].weight[0] = 1000.0
    mlp[0].weight_mask = torch.ones(32, 16, dtype=torch.bool)
    mlp[0].weight_mask[0] = False
    concrete = calibrate(mlp, Quantize({"0": {"weight": "Integer"}}), [torch.randn(2, 16)])
    assert isinstance(concrete.layers["0"], LayerFormats)
    assert isinstance(concrete.layers["0"].weight, Integer)
    assert concrete.layers["0"].weight.frac_width > 4


class Fragile(nn.Module):
    """Fails at the second batch; has a layer that is never called and one with an odd name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a[b]*": nn.Linear(4, 4), "dropout": nn.Dropout(0.5)})
        self.norm = nn.BatchNorm1d(4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise RuntimeError("no")
        output: Tensor = self.norm(self.layers["dropout"](self.layers["a[b]*"](x)))
        return output


def test_a_calibrated_recipe_keeps_its_kinds_and_its_backend(mlp: nn.Sequential) -> None:
    recipe = Quantize({"*": "Integer"}, kinds=["Linear"], backend="mase")
    found = calibrate(mlp, recipe, [torch.randn(4, 16)])
    assert (found.kinds, found.backend) == (("Linear",), "mase")


def test_names_with_characters_of_shell_patterns_are_escaped() -> None:
    model = Fragile()
    concrete = calibrate(model, Quantize({"layers.*": "Integer"}), [torch.randn(2, 4)])
    concrete(model)
    assert isinstance(model.layers["a[b]*"], QuantizedLayer)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = Fragile()
    model.layers["dropout"].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [torch.randn(2, 4), torch.full((2, 4), math.nan if fails else 0.0)]
    state = torch.get_rng_state()
    try:
        calibrate(model, Quantize({"layers.*": "Integer"}), batches)
    except RuntimeError:
        assert fails
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()].count(False) == 1
    assert not model.layers["dropout"].training
    assert not any(m._forward_pre_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_compiled_model_is_observed() -> None:
    model, recipe, x = Fragile(), Quantize({"layers.*": "Integer"}), torch.randn(8, 4)
    expected = calibrate(model, recipe, [x])
    torch._dynamo.reset()
    model.compile(backend="eager")
    with torch.no_grad():
        model.eval()(x)
    assert calibrate(model, recipe, [x]) == expected


def test_layers_that_got_no_input_are_named() -> None:
    with pytest.raises(ValueError, match="rounds the input of unused, which got none"):
        calibrate(Fragile(), Quantize({"*": "Integer"}), [torch.randn(2, 4)])


def test_weights_alone_are_calibrated_without_an_input() -> None:
    concrete = calibrate(Fragile(), Quantize({"unused": {"weight": CHOSEN}}), [torch.randn(2, 4)])
    assert concrete.layers["unused"] != LayerFormats(weight=CHOSEN)


def nothing() -> Iterator[Tensor]:
    yield from ()


def test_a_wrong_call_is_refused(mlp: nn.Sequential) -> None:
    recipe = Quantize({"*": "Integer"})
    with pytest.raises(ValueError, match="calibrate: batches is empty"):
        calibrate(mlp, recipe, nothing())
    with pytest.raises(ValueError, match="observer='max' is not a choice; use 'minmax' or"):
        calibrate(mlp, recipe, [torch.randn(2, 16)], observer="max")
    with pytest.raises(ValueError, match="observer='max' is not a choice; use 'minmax' or"):
        Integer().calibrated(-1.0, 1.0, torch.ones(2), "max")
    with pytest.raises(ValueError, match="pattern 'encoder' matches none"):
        calibrate(mlp, Quantize({"encoder": "Integer"}), [torch.randn(2, 16)])

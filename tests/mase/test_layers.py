"""MASE's layers as layers of this package: built, trained, saved, masked, compiled."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adls import mase
from lightning_adls.formats import Binary, Integer, ResidualSign, Ternary, parse
from lightning_adls.layers import LayerFormats, QuantizedLinear, formats_of, quantized
from lightning_adls.layers.mase.configured import ConfiguredLinear, MaseLinear
from lightning_adls.layers.mase.linear import mase_layer
from lightning_adls.layers.mase.quantizers import quantize, residual_sign
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.cost import bits_per_weight, costs
from lightning_adls.transforms.quantize import state_for
from lightning_adls.transforms.walk import linear_layers


def everywhere(**values: Any) -> dict[str, Any]:
    prefixes = ("data_in", "weight", "bias")
    return {f"{prefix}_{key}": value for prefix in prefixes for key, value in values.items()}


SIGN = everywhere(stochastic=False, bipolar=True)
BLOCK = {"width": 8, "block_size": [1, 8]}
CONFIGS: dict[str, dict[str, Any]] = {
    "LinearInteger": everywhere(width=8, frac_width=5),
    "LinearMinifloatDenorm": everywhere(width=8, exponent_width=4, exponent_bias=7),
    "LinearMinifloatIEEE": everywhere(width=8, exponent_width=4, exponent_bias=7),
    "LinearLog": everywhere(width=8, exponent_bias=15),
    "LinearBlockFP": everywhere(**BLOCK, exponent_width=8, exponent_bias=None),
    "LinearBlockMinifloat": everywhere(**BLOCK, exponent_width=4, exponent_bias_width=4),
    "LinearBlockLog": everywhere(**BLOCK, exponent_bias_width=8),
    "LinearMXInt": everywhere(width=8, block_size=8),
    "LinearBinary": {"weight_stochastic": False, "weight_bipolar": True},
    "LinearBinaryScaling": SIGN | {"binary_training": True},
    "LinearBinaryResidualSign": SIGN | {"binary_training": True, "data_in_levels": 2},
    "LinearTernary": {"weight_scaling_factor": True},
    "LinearMXFP": everywhere(exponent_width=4, frac_width=3, block_size=8),
}
STANDARD = ("LinearTernary", "LinearMXFP")
every_layer = pytest.mark.parametrize("name", CONFIGS)


def build(name: str, inputs: int = 16, outputs: int = 8, **changes: Any) -> ConfiguredLinear:
    cls = getattr(mase, name)
    layer: ConfiguredLinear = cls(inputs, outputs, config=CONFIGS[name] | changes)
    return layer


def test_every_layer_is_tried() -> None:
    assert set(CONFIGS) == {name for name in mase.__all__ if name.startswith("Linear")}


@every_layer
def test_training_lowers_the_loss(name: str) -> None:
    x = torch.randn(64, 16)
    target = x @ torch.randn(16, 8)
    layer = build(name)
    # A scale that follows the layer lets unscaled signs fit, too.
    scale = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([*layer.parameters(), scale], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (layer(x) * scale - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in layer.parameters())


@every_layer
def test_a_config_is_copied_and_never_changed(name: str) -> None:
    config = deepcopy(CONFIGS[name])
    layer = getattr(mase, name)(16, 8, config=config)
    layer(torch.randn(2, 16))
    assert config == CONFIGS[name] == layer.config
    config.clear()
    assert layer.config == CONFIGS[name]


@every_layer
def test_a_wrong_config_is_refused_in_the_name_of_the_layer(name: str) -> None:
    key = next(key for key in CONFIGS[name] if key.startswith("weight"))
    shorter = {k: v for k, v in CONFIGS[name].items() if not k.startswith("weight")}
    for config, message in (
        (None, "config=None is not a mapping"),
        (CONFIGS[name] | {"weight_wdth": 4}, "weight_wdth=4 is no key"),
        (CONFIGS[name] | {key: "?"}, f"{key}='\\?' "),
        (CONFIGS[name] | {"bypass": "no"}, "bypass='no' is no choice"),
        (shorter, "config lacks weight_"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            getattr(mase, name)(16, 8, config=config)


@every_layer
def test_a_bypassed_layer_is_a_plain_one(name: str) -> None:
    layer, x = build(name, bypass=True), torch.randn(3, 16)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert list(layer.state_dict()) == ["weight", "bias"]
    # MASE asks a bypassed layer for nothing else.
    assert getattr(mase, name)(16, 8, config={"bypass": True}).formats == LayerFormats()


@every_layer
def test_switched_off_it_is_a_plain_one(name: str) -> None:
    layer, x = build(name), torch.randn(3, 16)
    layer.enabled = False
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@every_layer
def test_constructor_arguments_are_those_of_mase(name: str) -> None:
    cls = getattr(mase, name)
    layer = cls(16, 8, False, "cpu", torch.bfloat16, CONFIGS[name])
    assert layer.bias is None
    assert layer.weight.dtype == torch.bfloat16
    y = layer(torch.randn(2, 3, 16, dtype=torch.bfloat16))
    assert (y.dtype, y.shape) == (torch.bfloat16, (2, 3, 8))
    y.float().sum().backward()


@every_layer
def test_state_dicts_pass_to_plain_layers_and_back(name: str) -> None:
    plain, layer, x = nn.Linear(16, 8), build(name), torch.randn(3, 16)
    assert set(plain.state_dict()) <= set(layer.state_dict())
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.25)
    twin = build(name)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    plain.load_state_dict(state_for(plain, layer.state_dict()))
    assert torch.equal(plain.weight, layer.weight)


@every_layer
def test_pruned_weights_stay_zero(name: str) -> None:
    # Formats without a zero would bring them back.
    layer = build(name)
    mask = torch.rand(8, 16) < 0.5
    layer.weight_mask = mask
    assert not layer.rounded_weight()[~mask].any()
    layer(torch.randn(3, 16)).sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~mask].any()


@every_layer
def test_eval_remembers_the_rounded_weight_until_something_changes(name: str) -> None:
    layer = build(name).eval()
    with torch.no_grad():
        first = layer.rounded_weight()
        assert layer.rounded_weight() is first
        for parameter in (layer.weight, layer.weight_scales):
            if parameter is not None:
                parameter.mul_(-4)
                assert not torch.equal(layer.rounded_weight(), first)
                first = layer.rounded_weight()


@every_layer
@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 5, 16), (2, 3, 5, 16), (0, 16), (2, 0, 16)])
def test_any_number_of_dimensions_goes_in(name: str, shape: tuple[int, ...]) -> None:
    assert build(name)(torch.randn(shape)).shape == (*shape[:-1], 8)


@pytest.mark.parametrize(
    "name", ["LinearBlockMinifloat", "LinearMXInt", "LinearBinaryResidualSign"]
)
def test_layers_compile_to_one_graph(name: str) -> None:
    torch._dynamo.reset()  # it gives up when one forward has been compiled for many layers
    layer, x = build(name), torch.randn(2, 5, 16, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    assert torch.allclose(y, layer(x))
    y.sum().backward()
    assert x.grad is not None


@every_layer
def test_autocast_multiplies_in_its_dtype(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = build(name)(torch.randn(2, 5, 16, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("fmt", "x", "rounded"),
    [
        ("MinifloatDenorm(width=8, exponent_width=4)", [1.0, -2.0, 0.9375], [0.875, -1.75, 0.875]),
        ("MinifloatIEEE(width=8, exponent_width=4)", [1.99, 2.0, -3.9], [1.875, 2.0, -3.75]),
        ("Log(width=8, exponent_bias=7)", [0.0, 1.5, -1e38], [2.0**-7, 2.0, -(2.0**120)]),
        ("BlockFP(width=4, block_size=2)", [1.0, 0.5, 1.5, 0.5], [0.875, 0.5, 1.5, 0.5]),
        (
            "BlockLog(width=8, block_size=2)",
            [0.0, 0.0, 3.0, 0.0],
            [2.0**-125] * 2 + [4.0, 2.0**-125],
        ),
        (
            "BlockMinifloat(width=8, exponent_width=2, exponent_bias_width=1, block_size=2)",
            [8.0, 0.5],
            [7.875, 0.5],
        ),
        ("MXInt(width=4, block_size=2)", [1.0, 0.5], [0.875, 0.5]),
        ("Binary(scale=per_tensor)", [0.0, 7.0, -0.1], [1.0, 1.0, -1.0]),
        ("Integer(width=4, frac_width=2)", [0.125, 0.375, 9.0], [0.0, 0.5, 1.75]),
        ("Integer(width=4, frac_width=2, rounding=floor)", [0.3, -0.3], [0.25, -0.5]),
    ],
)
def test_faults_are_kept(fmt: str, x: list[float], rounded: list[float]) -> None:
    assert quantize(torch.tensor(x), parse(fmt)).tolist() == rounded


def test_block_minifloat_loses_small_weights() -> None:
    weight = torch.randn(64, 64) * 0.02
    fmt = parse("BlockMinifloat(width=8, exponent_width=4)")
    assert (quantize(weight, fmt) == 0).float().mean() > 0.99
    assert (fmt(weight) == 0).float().mean() < 0.1


def test_blocks_of_a_batch_hold_single_samples() -> None:
    samples = torch.randn(4, 32) * torch.tensor([[1e-3], [1.0], [10.0], [1e3]])
    fmt = parse("BlockFP(width=6, block_size=(-1, 16))")
    together = quantize(samples, fmt, batched=True)
    assert torch.equal(together, torch.cat([quantize(row, fmt) for row in samples.split(1)]))
    assert not torch.equal(together, quantize(samples, fmt))
    layer = build("LinearBlockFP", 32, **everywhere(width=6, block_size=[16]))
    assert torch.equal(layer.rounded_input(samples), together)
    tokens = samples[None]  # one sample of four tokens
    assert torch.equal(quantize(tokens, fmt, batched=True)[0], quantize(samples, fmt))


def test_a_block_of_zeros_takes_the_smallest_exponent_of_the_others() -> None:
    x = torch.tensor([[0.0, 0.0, 8.0, 8.0, 0.25, 0.25]])
    fmt = parse("BlockLog(width=4, block_size=2)")
    assert quantize(x, fmt)[0, 0] == quantize(x[:, 4:] * torch.tensor([1.0, 0.0]), fmt)[0, 1]
    assert quantize(torch.zeros(2, 4), fmt).tolist() == [[2.0**-7] * 4] * 2


def test_residual_signs_have_the_gradient_of_a_hard_tanh() -> None:
    layer = build("LinearBinaryResidualSign", 4, 1)
    assert layer.input_scales is not None
    assert torch.equal(layer.input_scales, torch.tensor([2 / 3, 1 / 3]))
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.tensor([[0.0, 1.0, -1.0, 2.0]], requires_grad=True)
    assert torch.allclose(layer.rounded_input(x), torch.tensor([[0.0, 1.0, -1.0, 1.0]]))
    assert torch.equal(residual_sign(x, -layer.input_scales), layer.rounded_input(x))
    layer(x).sum().backward()
    # Both levels inside: 2/3 + (1 - 2/3) / 3. The last is outside at both.
    inside = 2 / 3 + (1 - 2 / 3) / 3
    assert torch.allclose(x.grad, torch.tensor([[inside, inside, inside, 0.0]]))  # type: ignore[arg-type]


def test_learned_scales_have_the_gradient_that_differences_show() -> None:
    layer = build("LinearBinaryResidualSign", 16, 8)
    # Beyond 1 at every level: the signs have no gradient of their own.
    x = (torch.rand(4, 16) + 3) * torch.randn(4, 16).sign()
    factor = torch.randn(8)
    (layer(x) @ factor).sum().backward()
    for scales in (layer.input_scales, layer.weight_scales):
        assert scales is not None
        assert scales.grad is not None
        with torch.no_grad():
            before = (layer(x) @ factor).sum()
            scales.add_(1e-3)
            change = ((layer(x) @ factor).sum() - before) / 1e-3
        assert torch.isclose(change, scales.grad.sum(), rtol=0.02)


def test_one_level_sees_every_sample() -> None:
    layer, x = build("LinearBinaryResidualSign", data_in_levels=1), torch.randn(3, 5, 16)
    assert torch.equal(layer.rounded_input(x), x.sign())


def test_checkpoints_of_mase_bring_their_scales_and_mask() -> None:
    layer = build("LinearBinaryResidualSign")
    mask = (torch.rand(8, 16) < 0.5).float()
    state = nn.Linear(16, 8).state_dict() | {
        "means": torch.tensor([0.5, 0.2]),
        "gamma": torch.tensor(-3.0),
        "pruning_masks": mask,
    }
    layer.load_state_dict(state)
    assert layer.weight_scales is not None
    assert layer.weight_scales.item() == -3
    sign = torch.where(state["weight"] >= 0, 1.0, -1.0)
    assert torch.equal(layer.rounded_weight(), 3 * sign * mask)


def test_stochastic_signs_are_random_in_training_only() -> None:
    layer = build("LinearBinary", 64, 64, weight_stochastic=True)
    assert not torch.equal(layer.rounded_weight(), layer.rounded_weight())
    mean = torch.stack([layer.rounded_weight() for _ in range(400)]).mean(0)
    assert (mean - layer.weight).abs().mean() < 0.06
    layer.eval()
    assert torch.equal(layer.rounded_weight(), torch.where(layer.weight >= 0, 1.0, -1.0))


FORMATS = {
    name: getattr(mase, name)._formats_of(config)
    for name, config in CONFIGS.items()
    if name not in STANDARD
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_choose_the_layer(name: str) -> None:
    plain, x = nn.Linear(16, 8).eval(), torch.randn(2, 5, 16)
    layer = mase_layer(plain, FORMATS[name])
    assert type(layer) is getattr(mase, name)
    assert (layer.backend, layer.training) == ("mase", False)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert layer.formats == FORMATS[name]
    assert isinstance(layer, ConfiguredLinear)
    assert layer.config.items() <= CONFIGS[name].items()
    configured = build(name)
    configured.load_state_dict(plain.state_dict())
    assert torch.equal(layer(x), configured(x))


def test_layers_without_a_counterpart_are_standard_ones() -> None:
    plain = nn.Linear(16, 8)
    for formats in (
        LayerFormats(),
        LayerFormats(weight=Ternary()),
        LayerFormats(weight=parse("MXFP(exponent_width=2, mantissa_width=1)")),
    ):
        layer = mase_layer(plain, formats)
        assert type(layer) is QuantizedLinear
        assert layer.formats == formats


def test_a_bias_is_binarised_although_the_recipe_leaves_it() -> None:
    layer = mase_layer(nn.Linear(16, 8), LayerFormats(Binary("per_tensor"), Binary("per_channel")))
    bias = layer.rounded_bias()
    assert bias is not None
    assert torch.equal(bias.abs(), torch.ones(8))
    assert layer.formats.bias == Binary()


def test_layers_that_mase_does_not_have_are_refused() -> None:
    integer = LayerFormats(Integer(), Integer(), Integer())
    with pytest.raises(ValueError, match="mase: layer=Conv1d is not linear"):
        mase_layer(nn.Conv1d(4, 4, 3), integer)
    with pytest.raises(ValueError, match="no kind of layer rounds to input=None"):
        mase_layer(nn.Linear(4, 4), LayerFormats(weight=Integer()))
    with pytest.raises(ValueError, match=r"LinearLog: formats=.* of kind 'integer'"):
        mase.LinearLog(4, 4, formats=integer)
    with pytest.raises(ValueError, match="LinearLog: config and formats are given"):
        mase.LinearLog(4, 4, config=CONFIGS["LinearLog"], formats=integer)


def test_learned_scales_stay_with_the_layer_but_not_across_backends() -> None:
    formats = LayerFormats(ResidualSign(), Binary())
    layer = mase_layer(nn.Linear(16, 8), formats)
    again = mase_layer(layer, formats)
    assert again.input_scales is layer.input_scales
    assert again.weight_scales is layer.weight_scales
    assert quantized(layer, formats).input_scales is not layer.input_scales
    back = mase_layer(quantized(layer, formats), formats)
    assert back.input_scales is not layer.input_scales
    assert back.weight_scales is not None
    # A binary layer has learned nothing that a residual one could take.
    binary = mase_layer(nn.Linear(16, 8), LayerFormats(weight=Binary()))
    assert mase_layer(binary, formats).weight_scales is not None


RECIPE: dict[str, Any] = {
    "*": "Integer(width=8, frac_width=6)",
    "*.query": "BlockMinifloat(width=8, exponent_width=4, block_size=16)",
    "*.key": {"weight": "Binary"},
    "*.value": {"input": "ResidualSign(scale=per_tensor)", "weight": "Binary(scale=per_channel)"},
    "*.intermediate.*": {"weight": "Ternary"},
    "classifier": None,
}


def test_a_recipe_swaps_the_layers_of_a_model(tiny_bert: nn.Module) -> None:
    plain, reference = deepcopy(tiny_bert), deepcopy(tiny_bert)
    recipe = Quantize(RECIPE, backend="mase")
    recipe(tiny_bert)
    types = {name.rsplit(".", 1)[-1]: type(m) for name, m in linear_layers(tiny_bert).items()}
    assert types["query"] is mase.LinearBlockMinifloat
    assert types["key"] is mase.LinearBinary
    assert types["value"] is mase.LinearBinaryResidualSign
    assert types["classifier"] is nn.Linear
    batch = {"input_ids": torch.randint(0, 50, (2, 6)), "attention_mask": torch.ones(2, 6)}
    logits = tiny_bert(**batch).logits
    logits.sum().backward()
    tiny_bert.load_state_dict(plain.state_dict())
    plain.load_state_dict(state_for(plain, tiny_bert.state_dict()))
    # The same formats cost the same, whoever computes.
    Quantize(RECIPE)(reference)
    assert bits_per_weight(tiny_bert) == bits_per_weight(reference)
    assert costs(tiny_bert)["size_mb"] == pytest.approx(costs(reference)["size_mb"], abs=1e-5)


def test_a_recipe_applied_again_changes_nothing(mlp: nn.Sequential) -> None:
    recipe = Quantize({"*": {"input": "ResidualSign", "weight": "Binary"}}, backend="mase")
    recipe(mlp)
    layers = linear_layers(mlp)
    recipe(mlp)
    assert linear_layers(mlp) == layers
    Quantize({"0": {"input": "ResidualSign", "weight": "Binary"}})(mlp)
    assert type(mlp[0]) is QuantizedLinear
    assert formats_of(mlp[0]) == formats_of(mlp[2])


def test_masks_stay_when_the_backend_changes(mlp: nn.Sequential, x: Tensor) -> None:
    Prune(0.5)(mlp)
    masks = [layer.weight_mask for layer in linear_layers(mlp).values()]
    Quantize({"*": "Log"}, backend="mase")(mlp)
    for layer, mask in zip(linear_layers(mlp).values(), masks, strict=True):
        assert isinstance(layer, MaseLinear)
        assert layer.weight_mask is mask
        assert (layer.rounded_weight() == 0).float().mean() == 0.5
    assert mlp(x).isfinite().all()

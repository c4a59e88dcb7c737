"""MASE itself: our layers against its own, and its own as a backend of recipes.

What needs MASE's package runs only where that can be imported; docs/mase_environment.md says how to
make such an environment.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls import mase
from lightning_adls.formats import Binary, Integer, ResidualSign, Ternary
from lightning_adls.layers import LayerFormats, QuantizedLayer, QuantizedLinear, builder
from lightning_adls.layers.mase.layer_config import config_of_formats
from lightning_adls.transforms import Prune, Quantize

REAL = "chop.nn.quantized.modules.linear"
ROLES = ("data_in", "weight", "bias")
Config = dict[str, Any]
Build = Callable[[nn.Module, LayerFormats], QuantizedLayer]


# MASE indexes with lists of slices.
DEPRECATED = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")


@pytest.fixture(scope="module")
def chop() -> Any:
    """MASE's module of linear layers."""
    missing = "MASE's package chop cannot be imported; see docs/mase_environment.md"
    return pytest.importorskip(REAL, reason=missing, exc_type=ImportError)


# Without it


@pytest.fixture
def no_chop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, REAL.rpartition(".")[0], None)
    monkeypatch.delitem(sys.modules, "lightning_adls.layers.mase.chop", raising=False)


@pytest.mark.usefixtures("no_chop")
def test_a_recipe_for_chop_says_in_one_line_what_is_missing() -> None:
    with pytest.raises(ImportError, match=r"https://github\.com/DeepWok/mase") as caught:
        Quantize({"*": "Integer(width=8, frac_width=4)"}, backend="chop")
    text = str(caught.value)
    assert "MASE's package" in text
    assert "environment of its own" in text
    assert "\n" not in text


@pytest.mark.usefixtures("no_chop")
def test_a_recipe_file_for_chop_is_refused_when_it_is_read(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("quantize: {'*': 'Integer(width=8, frac_width=4)'}\nbackend: chop\n")
    with pytest.raises(ImportError, match="MASE's package"):
        Quantize.load(path)


# Our layers against the real ones


def of_all(**values: Any) -> Config:
    return {f"{role}_{key}": value for role in ROLES for key, value in values.items()}


def signs(*roles: str, stochastic: bool = False) -> Config:
    return {f"{role}_{key}": value for role in roles
            for key, value in (("stochastic", stochastic), ("bipolar", True))}  # fmt: skip


def keys(**ranges: tuple[int, int]) -> st.SearchStrategy[Config]:
    """Another value in these ranges for each tensor."""
    numbers = {key: st.integers(*bounds) for key, bounds in ranges.items()}
    return st.fixed_dictionaries(
        {f"{role}_{key}": number for role in ROLES for key, number in numbers.items()}
    )


BLOCKS = [[16], [1, 16], [4, 8], [-1, 4], [3, 5], [-1], [64, 64]]


def blocked(config: st.SearchStrategy[Config]) -> st.SearchStrategy[Config]:
    blocks = st.fixed_dictionaries(
        {f"{role}_block_size": st.sampled_from(BLOCKS).map(list) for role in ROLES}
    )
    return st.builds(lambda a, b: a | b, config, blocks)


MINIFLOAT = keys(width=(4, 16), exponent_width=(1, 6), exponent_bias=(0, 31))
CONFIGS: dict[str, st.SearchStrategy[Config]] = {
    "LinearInteger": st.builds(
        lambda config, floor: config | floor,
        keys(width=(2, 16), frac_width=(-2, 12)),
        st.sampled_from([{}, {"floor": True}, {"floor": False}]),
    ),
    "LinearMinifloatDenorm": MINIFLOAT,
    "LinearMinifloatIEEE": MINIFLOAT,
    "LinearLog": keys(width=(2, 8), exponent_bias=(0, 60)),
    "LinearBlockFP": blocked(keys(width=(2, 12), exponent_width=(1, 8), exponent_bias=(0, 127))),
    "LinearBlockMinifloat": blocked(
        keys(width=(4, 12), exponent_width=(1, 6), exponent_bias_width=(1, 8))
    ),
    "LinearBlockLog": blocked(keys(width=(3, 8), exponent_bias_width=(1, 8))),
    "LinearBinary": st.just(signs("weight")),
    "LinearBinaryScaling": st.just(signs(*ROLES) | {"binary_training": True}),
    "LinearBinaryResidualSign": st.sampled_from([2, 3]).map(
        lambda levels: (
            signs("data_in", "weight") | {"binary_training": True, "data_in_levels": levels}
        )
    ),
    "LinearMXInt": st.builds(
        lambda width, size, others: {
            f"{role}_{key}": value
            for role in ("weight", *others)
            for key, value in (("width", width), ("block_size", size))
        },
        st.integers(2, 12),
        st.sampled_from([4, 8, 16]),
        st.sampled_from([(), ("data_in",), ("bias",), ("data_in", "bias")]),
    ),
}
# Their masks come to the same before and after rounding.
MASKABLE = (
    "LinearInteger",
    "LinearMinifloatDenorm",
    "LinearMinifloatIEEE",
    "LinearBinaryResidualSign",
)
UNTRAINABLE = ("LinearBlockMinifloat", "LinearMXInt")
# As the layers of the published Lab 3 had them, or MASE's own examples have.
TYPICAL: dict[str, Config] = {
    "LinearInteger": of_all(width=8, frac_width=4),
    "LinearMinifloatDenorm": of_all(width=8, exponent_width=4, exponent_bias=7),
    "LinearMinifloatIEEE": of_all(width=8, exponent_width=4, exponent_bias=7),
    "LinearLog": of_all(width=8, exponent_bias=63),
    "LinearBlockFP": of_all(width=8, exponent_width=8, exponent_bias=127, block_size=[1, 16]),
    "LinearBlockMinifloat": of_all(
        width=8, exponent_width=4, exponent_bias_width=8, block_size=[16]
    ),
    "LinearBlockLog": of_all(width=8, exponent_bias_width=8, block_size=[1, 16]),
    "LinearBinary": signs("weight"),
    "LinearBinaryScaling": signs(*ROLES) | {"binary_training": True},
    "LinearBinaryResidualSign": signs("data_in", "weight")
    | {"binary_training": True, "data_in_levels": 2},
    "LinearMXInt": {
        f"{role}_{key}": v
        for role in ("data_in", "weight")
        for key, v in (("width", 8), ("block_size", 16))
    },
}


def build(
    chop: Any, name: str, config: Config, in_features: int, out_features: int, bias: bool
) -> tuple[nn.Module, QuantizedLinear]:
    """MASE's layer and ours, on equal parameters that need not be those of a new layer."""
    real = getattr(chop, name)(in_features, out_features, bias, config=copy.deepcopy(config))
    try:
        ours = getattr(mase, name)(in_features, out_features, bias, config=config)
    except ValueError:
        assume(False)  # MASE computes something with formats that cannot be
        raise
    with torch.no_grad():
        for parameter in (ours.weight, *([ours.bias] if bias else [])):
            parameter.copy_(numbers(*parameter.shape)).mul_(2.0 ** int(torch.randint(-7, 3, ())))
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    if name == "LinearBinaryResidualSign":
        state["means"] = state.pop("input_scales") * 0.9
        state["gamma"] = state.pop("weight_scales") * -1.3
        state["pruning_masks"] = torch.ones_like(state["weight"])
        ours.load_state_dict(state)  # which knows MASE's names
    real.load_state_dict(state)
    return real, cast(QuantizedLinear, ours)


def numbers(*shape: int) -> Tensor:
    """Of a normal distribution, with some zeros and powers of two and perhaps a block of zeros."""
    x, choice = torch.randn(shape), torch.rand(shape)
    x = torch.where(choice < 0.1, torch.exp2(x.mul(3).round()) * x.sign(), x)
    x = x.masked_fill(choice > 0.9, 0.0)
    zeros = int(torch.rand(()) < 0.3) * shape[-1] // 2
    return x.index_fill(-1, torch.arange(zeros), 0.0)


def close(found: Tensor | None, expected: Tensor | None) -> None:
    """Alike but for the order of sums, which depends on strides."""
    assert found is not None
    assert expected is not None
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(size, 0.1))


def recorded(layer: nn.Module, x: Tensor, patch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """What a layer multiplies and adds, and the output."""
    multiplied: list[Tensor | None] = []
    linear = nn.functional.linear

    def record(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        multiplied.extend([input, weight, bias])
        return linear(input, weight, bias)

    with patch.context() as patched:
        patched.setattr(nn.functional, "linear", record)
        output = layer(x)
    assert len(multiplied) == 3, "the layer multiplied once"
    return [*multiplied, output]


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 24))


@pytest.mark.parametrize("name", CONFIGS)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(data=st.data())
@DEPRECATED
def test_our_layers_are_the_real_ones_forward_and_backward(
    name: str, data: st.DataObject, chop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    config = data.draw(CONFIGS[name])
    in_features, out_features = data.draw(SIZES)
    samples = data.draw(st.sampled_from([(3,), (2, 5), (1, 1)]))
    if name == "LinearMXInt":
        # MASE refuses tensors that do not divide into blocks, whatever their rows are.
        out_features *= config["weight_block_size"]
        samples = (samples[0] * config["weight_block_size"], *samples[1:])
    real, ours = build(chop, name, config, in_features, out_features, data.draw(st.booleans()))
    x = numbers(*samples, in_features) * 2.0 ** data.draw(st.integers(-4, 4))

    inputs = [x.clone().requires_grad_() for _ in range(2)]
    *theirs, their_output = recorded(real, inputs[0], monkeypatch)
    *found, output = recorded(ours.train(), inputs[1], monkeypatch)
    for mine, mases in zip(found, theirs, strict=True):
        assert (mine is None) == (mases is None)
        assert mine is None or torch.equal(mine, cast(Tensor, mases))
    assert output is not None
    assert their_output is not None
    close(output, their_output)

    grad = torch.randn_like(output)
    output.backward(grad)
    assert all(parameter.grad is not None for parameter in ours.parameters())
    if name in UNTRAINABLE:
        with pytest.raises((TypeError, RuntimeError)):
            their_output.backward(grad)
        return
    their_output.backward(grad)
    close(inputs[1].grad, inputs[0].grad)
    names = {"means": "input_scales", "gamma": "weight_scales"}
    for key, parameter in real.named_parameters():
        if parameter.requires_grad:
            close(ours.get_parameter(names.get(key, key)).grad, parameter.grad)


# MASE's layers as a backend


# Ours is the standard one, so that this is compared with nothing above.
MXFP: Config = {
    f"{role}_{key}": value
    for role in ("data_in", "weight")
    for key, value in (("exponent_width", 4), ("frac_width", 3), ("block_size", 16))
}
FORMATS = {
    name: getattr(mase, name)(16, 16, config=config).formats
    for name, config in (TYPICAL | {"LinearMXFP": MXFP}).items()
}


@pytest.fixture
def chop_layer(chop: Any) -> Build:
    return builder("chop")


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(32, 16)


@DEPRECATED
@pytest.mark.parametrize("name", FORMATS)
def test_the_backend_computes_what_the_real_layer_does_on_the_same_parameters(
    name: str, chop: Any, chop_layer: Build, linear: nn.Linear
) -> None:
    layer = chop_layer(linear, FORMATS[name]).eval()
    kind, config = config_of_formats(FORMATS[name])
    real = getattr(chop, name)(32, 16, config=config)
    real.load_state_dict(linear.state_dict(), strict=False)
    x = torch.randn(2, 16, 32)
    with torch.no_grad():
        assert torch.equal(layer(x), real(x))
        linear.weight.mul_(0.5)
        real.load_state_dict(linear.state_dict(), strict=False)
        assert torch.equal(layer(x), real(x)), "a change of the weight is seen"
    assert layer.mase_kind == kind
    assert layer.backend == "chop"
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    learned = {"input_scales", "weight_scales"} if name == "LinearBinaryResidualSign" else set()
    assert set(layer.state_dict()) == {"weight", "bias"} | learned


@DEPRECATED
@pytest.mark.parametrize("name", TYPICAL)
def test_a_bert_trains_on_the_real_layers_as_on_ours(
    name: str, chop: Any, tiny_bert: nn.Module
) -> None:
    formats = FORMATS[name]
    batch = {
        "input_ids": torch.randint(100, (4, 12)),
        "attention_mask": torch.ones(4, 12, dtype=torch.long),
    }

    def trained(backend: str) -> tuple[Tensor, dict[str, Tensor]]:
        model = copy.deepcopy(tiny_bert)
        Quantize({"*": formats}, backend=backend)(model)
        types = [type(m).__name__ for m in model.modules() if isinstance(m, QuantizedLayer)]
        assert len(types) == 8
        assert set(types) == {"ChopLinear" if backend == "chop" else name}
        model.train(name not in UNTRAINABLE)
        torch.manual_seed(0)  # of the dropout
        with torch.set_grad_enabled(model.training):
            logits = cast(Tensor, model(**batch).logits)
        if model.training:
            nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        return logits, model.state_dict()

    (logits, state), (expected, expected_state) = trained("chop"), trained("mase")
    close(logits, expected)
    assert state.keys() == expected_state.keys()
    for key, value in expected_state.items():
        close(state[key], value)
    if name not in UNTRAINABLE:
        assert not torch.equal(
            state["classifier.weight"], tiny_bert.get_parameter("classifier.weight")
        )


@DEPRECATED
@pytest.mark.parametrize("name", [*UNTRAINABLE, "LinearMXFP"])
def test_what_has_no_backward_in_mase_is_evaluated_but_not_trained(
    name: str, chop_layer: Build, linear: nn.Linear
) -> None:
    layer, x = chop_layer(linear, FORMATS[name]), torch.randn(2, 16, 32)
    with pytest.raises(ValueError, match="cannot be trained, because MASE's layer has no backward"):
        layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), layer.eval()(x))


@DEPRECATED
@pytest.mark.parametrize("name", FORMATS)
def test_a_mask_is_applied_as_ours_is_or_refused(
    name: str, chop_layer: Build, linear: nn.Linear
) -> None:
    model = nn.Sequential(linear)
    Prune(0.5)(model)
    if name not in MASKABLE:
        with pytest.raises(ValueError, match="is rounded after masking in MASE"):
            chop_layer(model[0], FORMATS[name])
        assert type(model[0]) is QuantizedLinear, "the model is as it was"
        later = chop_layer(linear, FORMATS[name]).eval()
        later.weight_mask = cast(QuantizedLayer, model[0]).weight_mask
        with pytest.raises(ValueError, match="is rounded after masking in MASE"):
            later(torch.randn(2, 32))
        return
    x, mask = torch.randn(2, 3, 32), cast(QuantizedLayer, model[0]).weight_mask
    outputs, gradients = [], []
    for backend in ("chop", "mase"):
        layer = builder(backend)(model[0], FORMATS[name])
        outputs.append(layer(x))
        layer.zero_grad()
        outputs[-1].square().sum().backward()
        gradients.append(cast(Tensor, layer.weight.grad))
    close(*outputs)
    close(*gradients)
    assert not gradients[0].masked_fill(cast(Tensor, mask), 0.0).any()


@pytest.mark.parametrize(("out_features", "samples"), [(2, 16), (16, 3)])
def test_tensors_that_do_not_divide_into_blocks_are_refused(
    out_features: int, samples: int, chop_layer: Build
) -> None:
    layer = chop_layer(nn.Linear(4, out_features), FORMATS["LinearMXInt"]).eval()
    with pytest.raises(ValueError, match=r"refuses: .* is not divisible by block size 16"):
        layer(torch.randn(samples, 4))


def test_an_input_sparsity_is_refused(chop_layer: Build, linear: nn.Linear) -> None:
    layer = chop_layer(linear, FORMATS["LinearInteger"])
    layer.input_sparsity = 0.5
    with pytest.raises(ValueError, match=r"input_sparsity=0\.5 is nothing that MASE's layers can"):
        layer(torch.randn(2, 32))


@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_that_is_switched_off_rounds_nothing(
    name: str, chop_layer: Build, linear: nn.Linear
) -> None:
    layer, x = chop_layer(linear, FORMATS[name]), torch.randn(2, 32)
    layer.enabled = False
    assert torch.equal(layer(x), linear(x))


def test_what_is_learned_is_saved_and_copied(chop_layer: Build, linear: nn.Linear) -> None:
    formats, x = FORMATS["LinearBinaryResidualSign"], torch.randn(2, 3, 32)
    layer = chop_layer(linear, formats)
    assert [tuple(layer.get_parameter(f"{role}_scales").shape) for role in ("input", "weight")] == [
        (2,),
        (),
    ]
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    for backend in ("chop", "mase"):
        other = builder(backend)(nn.Linear(32, 16), formats)
        assert not torch.equal(other(x), layer(x))
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_binary_scaling_rounds_the_bias_even_if_the_recipe_does_not(
    chop_layer: Build, linear: nn.Linear
) -> None:
    layer, x = chop_layer(linear, LayerFormats(Binary(), Binary())), torch.randn(2, 32)
    assert layer.formats.bias == Binary()
    close(layer(x), builder("mase")(linear, layer.formats)(x))


def test_layers_without_formats_are_standard_ones(chop_layer: Build, linear: nn.Linear) -> None:
    layer = chop_layer(linear, LayerFormats())
    assert type(layer) is QuantizedLinear
    assert layer.weight is linear.weight


@pytest.mark.parametrize(
    ("layer", "formats", "problem"),
    [
        (nn.Linear(8, 4), LayerFormats(weight=Ternary()), "no linear layer in MASE that can be"),
        (nn.Linear(8, 4), LayerFormats(weight=Integer()), "is not what a layer|no kind of layer"),
        *(
            (
                nn.Linear(8, 4),
                LayerFormats(input=ResidualSign(levels=levels), weight=Binary()),
                f"has levels={levels}; MASE's layer computes with 2 or 3 only",
            )
            for levels in (1, 4)
        ),
        (nn.Conv1d(2, 2, 1), FORMATS["LinearInteger"], "layer=Conv1d is not linear"),
    ],
)
def test_what_mase_has_no_layer_for_is_refused(
    chop_layer: Build, layer: nn.Module, formats: LayerFormats, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        chop_layer(layer, formats)


def test_rounded_tensors_are_not_shown(chop_layer: Build, linear: nn.Linear) -> None:
    with pytest.raises(ValueError, match="rounded within MASE's layer"):
        chop_layer(linear, FORMATS["LinearInteger"]).rounded_weight()


@DEPRECATED
def test_rounding_draws_no_random_numbers(chop_layer: Build, linear: nn.Linear) -> None:
    # MASE's MXInt rounds what it loads, which takes a new layer for each call.
    x, state = torch.randn(2, 16, 32), torch.random.get_rng_state()
    with torch.no_grad():
        chop_layer(linear, FORMATS["LinearMXInt"])(x)
    assert torch.equal(torch.random.get_rng_state(), state)

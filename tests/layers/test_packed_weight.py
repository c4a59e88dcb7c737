"""The weight of a packed layer is there to be read, counted, copied and averaged, not written."""

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from lightning_adls.errors import InputValueError
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.layers.packed_weight import PackedWeight


def packed() -> PackedLinear:
    torch.manual_seed(0)
    return PackedLinear.from_linear(nn.Linear(70, 8))


X = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))


def test_what_is_read_is_what_is_multiplied() -> None:
    layer = packed()
    weight, expected = layer.weight, layer.rounded_weight()
    assert (weight.shape, weight.dtype, weight.device) == (
        (8, 70),
        torch.float32,
        layer.codes.device,
    )
    assert isinstance(weight, nn.Parameter)
    assert not weight.requires_grad
    assert torch.equal(weight, expected)
    assert torch.equal(weight.T[0], expected[:, 0])
    assert torch.equal(torch.cat([weight, weight]).norm(), torch.cat([expected, expected]).norm())
    assert torch.equal(nn.functional.linear(X, weight, cast(Tensor, layer.bias)), layer(X))
    assert (weight.detach().cpu().numpy() == expected.numpy()).all()
    assert weight.tolist() == expected.tolist()


def test_it_has_the_dtype_of_the_layer_and_stays_packed() -> None:
    layer = PackedLinear.from_linear(nn.Linear(70, 8, dtype=torch.bfloat16))
    assert layer.weight.dtype == torch.bfloat16
    codes = layer.codes.clone()
    for dtype in (torch.float16, torch.float64):
        layer.to(dtype)
        assert layer.weight.dtype == dtype
        assert torch.equal(layer.codes, codes)
    assert layer.weight.nbytes == layer.codes.nbytes + layer.exponents.nbytes
    assert PackedLinear(70, 8, dtype=torch.float64).weight.dtype == torch.float64


WRITES: dict[str, Callable[[PackedLinear], Any]] = {
    "assigned": lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(8, 70))),
    "assigned tensor": lambda layer: setattr(layer, "weight", torch.zeros(8, 70)),
    "assigned data": lambda layer: setattr(layer.weight, "data", torch.zeros(8, 70)),
    "init": lambda layer: nn.init.normal_(layer.weight),
    "in place": lambda layer: layer.weight.data.mul_(2),
    "copied": lambda layer: layer.weight.copy_(torch.zeros(8, 70)),
    "list": lambda layer: torch._foreach_mul_([layer.weight], 2.0),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_is_refused_in_a_sentence(name: str) -> None:
    layer = packed()
    with pytest.raises(InputValueError, match=r"weight .*is packed and cannot be") as caught:
        WRITES[name](layer)
    assert "\n" not in str(caught.value)
    assert torch.equal(layer.weight, packed().weight)


def test_parameters_keep_their_number_and_their_order() -> None:
    linear = nn.Linear(70, 8)
    layer = PackedLinear.from_linear(linear)
    shapes = [tuple(p.shape) for p in linear.parameters()]
    for change in (
        layer.state_dict,
        layer.double,
        lambda: layer.load_state_dict(layer.state_dict()),
    ):
        change()
        assert [tuple(p.shape) for p in layer.parameters()] == shapes


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_over_all_parameters_leave_it_alone(optimizer: Any) -> None:
    layer, codes = packed().requires_grad_(True), packed().codes
    steps = optimizer(layer.parameters(), lr=0.1, weight_decay=0.1)
    (_, bias) = (each.detach().clone() for each in layer.parameters())
    for _ in range(2):
        layer(X).sum().backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        steps.step()
        steps.zero_grad()
    assert torch.equal(layer.codes, codes)
    assert not torch.equal(cast(Tensor, layer.bias), bias)


AVERAGES: dict[str, dict[str, Any]] = {
    "default": {},
    "ema": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
    "ema of lists": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "swa": {"avg_fn": swa_utils.get_swa_avg_fn()},
    "swa of lists": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
}


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_of_a_packed_weight_is_the_weight(name: str, use_buffers: bool) -> None:
    layer = packed()
    average = swa_utils.AveragedModel(layer, use_buffers=use_buffers, **AVERAGES[name])
    for _ in range(5):
        average.update_parameters(layer)
    state = average.module.state_dict()
    assert torch.equal(state["codes"], layer.codes)
    assert torch.equal(state["exponents"], layer.exponents)


def saved(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = PackedLinear(70, 8)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def assigned(layer: nn.Module) -> nn.Module:
    other = PackedLinear(70, 8, device="meta")
    other.load_state_dict(layer.state_dict(), assign=True)
    return other


def called(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return partial(torch.func.functional_call, packed(), dict(layer.named_parameters()))


def exported(layer: nn.Module, *, strict: bool) -> nn.Module:
    return torch.export.export(layer, (X,), strict=strict).module()


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "state dict": saved,
    "assign": assigned,
    "shared memory": lambda layer: layer.share_memory(),
    "functional": called,
    "export": partial(exported, strict=False),
    "strict export": partial(exported, strict=True),
}


@pytest.mark.parametrize("name", WAYS)
def test_it_goes_where_modules_go(name: str) -> None:
    layer = packed()
    other = WAYS[name](layer)
    assert torch.equal(other(X), layer(X))
    if isinstance(other, PackedLinear):
        assert isinstance(other.weight, PackedWeight)
        assert isinstance(other.weight, nn.Parameter)


def test_states_keep_their_names() -> None:
    assert set(packed().state_dict()) == {"bias", "codes", "exponents", "_extra_state"}
    state = packed().state_dict()
    del state["codes"]
    missing = packed().load_state_dict(state, strict=False)
    assert missing.missing_keys == ["codes"]

"""A training step of a layer waits for no device, whatever it rounds to."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from samples import PAIRS, call
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

from lightning_adls.formats import NumberFormat
from lightning_adls.layers import LayerFormats, builder
from lightning_adls.optimizers import adamw

aten = torch.ops.aten


def train_step(layer: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    output = call(layer, x)
    output.square().sum().backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def variants(cls: type[NumberFormat]) -> Iterator[NumberFormat]:
    """The format with each kind of gradient and of scale, and a stochastic one."""
    yield cls()
    yield cls(ste="clipped")
    if hasattr(cls, "scale") and isinstance(cls.scale, str):
        yield cls(scale="per_tensor")  # type: ignore[call-arg]
        yield cls(scale="per_channel", ste="clipped")  # type: ignore[call-arg]
    if cls.__name__ == "Binary":
        yield cls(scale="per_channel", stochastic=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NumberFormat.classes)
@pytest.mark.parametrize("kind", PAIRS)
def test_no_layer_of_any_format_waits_in_a_training_step(kind: str, name: str) -> None:
    for fmt in variants(NumberFormat.classes[name]):
        plain, x = PAIRS[kind]()
        layer = builder("standard")(plain, LayerFormats(fmt, fmt, fmt))
        layer.weight_mask = torch.rand_like(layer._weight()) > 0.5
        layer.input_sparsity = 0.25 if kind != "Embedding" else 0.0
        optimizer = adamw(layer.parameters())
        for _ in range(2):  # the first fits scales
            train_step(layer, x, optimizer)
        with Waits() as found:
            train_step(layer, x, optimizer)
        # What is read on the CPU alone is not asked for elsewhere: see the test of copies.
        assert not [read for read in found if "lightning_adls/formats/host.py" not in read], fmt


class Copies(TorchDispatchMode):
    """Copies between devices, which wait unless they are from pinned memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        source = {aten._to_copy: 0, aten.copy_: 1}.get(func.overloadpacket)
        if source is not None and args[source].device != result.device:
            self.found.append(f"{func}: {args[source].device} to {result.device}")
        return result


def test_a_copy_between_devices_is_noticed() -> None:
    with Copies() as copies:
        torch.ones(2).to("meta")
        torch.empty(2, device="meta").copy_(torch.ones(2))
    assert len(copies.found) == 2


@pytest.mark.parametrize("name", NumberFormat.classes)
def test_no_format_copies_anything_to_its_device(name: str) -> None:
    for fmt in variants(NumberFormat.classes[name]):
        plain, x = PAIRS["Linear"]()
        layer = builder("standard")(plain.to("meta"), LayerFormats(fmt, fmt, fmt))
        # The one device besides the CPU that is always there; reading values from it fails.
        x = x.to("meta")
        call(layer, x).square().sum().backward()  # fits scales
        with Copies() as copies:
            call(layer, x).square().sum().backward()
        assert not copies.found, fmt


@pytest.mark.gpu
@pytest.mark.parametrize("name", NumberFormat.classes)
def test_cuda_itself_sees_no_waiting(name: str) -> None:
    fmt = NumberFormat.classes[name]()
    layer = builder("standard")(nn.Linear(64, 32, device="cuda"), LayerFormats(fmt, fmt, fmt))
    x, optimizer = torch.randn(8, 64, device="cuda"), adamw(layer.parameters())
    for _ in range(2):
        train_step(layer, x, optimizer)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(layer, x, optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")

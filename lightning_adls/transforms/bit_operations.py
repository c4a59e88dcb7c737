"""How much arithmetic a model does, weighted by the widths of what it multiplies."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import QuantizedLayer
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.transforms.flops import counting_flops
from lightning_adls.transforms.multiplied import multiplied_weights

FULL_PRECISION_BITS = 32


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of a forward pass.

    Args:
        weights: By the name of a module, those with the weights that it holds.
        others: Those of all that have no weight, such as the products of attention.
    """

    weights: Mapping[str, int]
    others: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.weights.values()) + self.others


def macs_of(model: nn.Module, *args: Any, **kwargs: Any) -> Macs:
    """Count the multiply-accumulates of ``model(*args, **kwargs)``, without gradients.

    Recipes do not change them: those of one network serve for each of its recipes. Counted is what
    :func:`lightning_adls.transforms.flops.flops_per_sample` counts, half of it.

    Args:
        model: Its mode stays as it is.
        args: One sample in a batch, to count what one sample takes.
        kwargs: The same, by name.

    Raises:
        InputValueError: If a module that multiplies was called, and torch's counter does not know
            the operation, as those of recurrent layers.

    Example:
        >>> import torch
        >>> macs_of(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), torch.ones(1, 8)).weights
        {'0': 32, '1': 8}
    """
    names = {id(module): name for name, module in model.named_modules()}
    holders = {use.module_name for uses in multiplied_weights(model) for use in uses}
    weights, others = dict[str, int](), 0
    with counting_flops(model) as counter, _calls(model, counter) as calls:
        model(*args, **kwargs)
    for call in calls:
        name, macs = names[id(call.module)], call.flops // 2
        if name not in holders:
            others += macs
            continue
        if isinstance(call.module, nn.MultiheadAttention):
            # Its own products have no weight.
            projected = min(macs, call.module.embed_dim * call.elements)
            others += macs - projected
            macs = projected
        weights[name] = weights.get(name, 0) + macs
    if unknown := [name for name, macs in weights.items() if not macs]:
        kind = type(model.get_submodule(unknown[0])).__name__
        raise InputValueError(
            f"macs_of: the products of {unknown[0] or 'the model'!r}, a {kind}, are not counted by "
            "torch's FlopCounterMode; leave bit_operations out."
        )
    return Macs(weights, others)


def bit_operations(model: nn.Module, macs: Macs) -> int:
    """Each multiply-accumulate times the bits of its input and the bits of its weight, summed.

    van Baalen et al. 2020, "Bayesian Bits: Unifying Quantization and Pruning", section 4. A format
    counts with the bits of an element (``code_bits``), without what its elements share. What is not
    rounded counts as 32 bits wide, products without weights as 32 times 32.

    Args:
        model: A network, with any recipe.
        macs: Of the same network.

    Example:
        >>> import torch
        >>> from lightning_adls.transforms import Quantize
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> macs = macs_of(model, torch.ones(1, 8))
        >>> bit_operations(model, macs)
        32768
        >>> Quantize({"*": "Integer(width=8)"})(model)
        >>> bit_operations(model, macs)
        2048
    """
    weighted = 0
    for name, count in macs.weights.items():
        inputs, weight = _widths(model.get_submodule(name))
        weighted += count * inputs * weight
    return weighted + macs.others * FULL_PRECISION_BITS**2


def width_of(fmt: NumberFormat | None) -> int:
    """Bits of an element; 32 in full precision."""
    return FULL_PRECISION_BITS if fmt is None else fmt.code_bits


def _widths(module: nn.Module) -> tuple[int, int]:
    """Of the input and of the weight."""
    if not isinstance(module, QuantizedLayer):
        return FULL_PRECISION_BITS, FULL_PRECISION_BITS
    rounds = module.enabled or module.waiting
    packed = isinstance(module, PackedLinear)
    return (
        width_of(module.formats.input if rounds else None),
        width_of(module.formats.weight if rounds or packed else None),
    )


@dataclass
class _Call:
    """A call of a module, and what it computed itself.

    Args:
        module: That was called.
        elements: Of query, key and value, where it is an attention.
        flops: First those before the call, then its own.
        within: Those of the modules that it called.
    """

    module: nn.Module
    elements: int
    flops: int
    within: int = field(default=0)


@contextmanager
def _calls(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[_Call]]:
    """The calls of all modules of a model, as they end."""
    ended: list[_Call] = []
    open_: list[_Call] = []

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        attended = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))
        attention = isinstance(module, nn.MultiheadAttention)
        elements = sum(x.numel() for x in attended[:3]) if attention else 0
        open_.append(_Call(module, elements, counter.get_total_flops()))

    def end(*_: Any) -> None:
        call = open_.pop()
        spent = counter.get_total_flops() - call.flops
        call.flops = spent - call.within
        if open_:
            open_[-1].within += spent
        ended.append(call)

    handles = list[RemovableHandle]()
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end))
        yield ended
    finally:
        for handle in handles:
            handle.remove()

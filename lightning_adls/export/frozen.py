"""A copy of a model whose weights are rounded once, to be traced for other engines."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.export.examples import network_of
from lightning_adls.layers import ROLES, QuantizedLayer
from lightning_adls.layers.stored_weight import StoredWeight
from lightning_adls.transforms.bake import Baked

Hold = Callable[[QuantizedLayer], dict[str, nn.Module]]


class FrozenLayer(QuantizedLayer):
    """Of a quantised layer in eval mode: it rounds its input, and its constants are rounded.

    Attributes:
        held: By ``weight`` and ``bias`` what gives them, by ``input`` what rounds it, each element
            by itself; without an entry, the parameter is multiplied and the layer's format rounds.
    """

    held: nn.ModuleDict

    def rounded_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The constant, for packed layers in the data type of their input."""
        weight: Tensor = self.held["weight"]() if "weight" in self.held else self._weight()
        return weight if dtype is None else weight.to(dtype)

    def rounded_bias(self) -> Tensor | None:
        """The constant."""
        if "bias" in self.held:
            return cast(Tensor, self.held["bias"]())
        return getattr(self, self.bias_name, None)

    def rounded_input(self, input: Tensor) -> Tensor:
        """The input as it is multiplied."""
        if "input" in self.held and not self.input_sparsity:
            return cast(Tensor, self.held["input"](input))  # whichever dimension has the features
        return super().rounded_input(input)

    def _round(self, role: str, x: Tensor) -> Tensor:
        if role in self.held:
            return cast(Tensor, self.held[role](x))
        return super()._round(role, x)


@cache
def _frozen_type(cls: Any) -> Any:
    return type(f"Frozen{cls.__name__}", (FrozenLayer, cls), {})


def check_exportable(model: nn.Module, who: str) -> None:
    """Refuse a model that computes what no other engine can be told of.

    Args:
        model: A network or a ``TextClassifier``.
        who: What the message begins with.

    Raises:
        ValueError: If a layer lets MASE compute, is switched between formats, has a weight or bias
            that is made anew before each call, or its input has learned scales that were never
            fitted. The message names it and its format.
    """
    for name, layer in network_of(model).named_modules():
        if not isinstance(layer, QuantizedLayer):
            continue
        at = f"{who}: layer {name!r}"
        if layer.scales_by_format is not None:
            raise InputValueError(
                f"{at} is switched between formats, and a file holds one of them; give what "
                "lightning_adls.supernet.extract makes."
            )
        if layer.backend == "chop":
            raise InputValueError(
                f"{at} of {layer.formats} is computed by MASE's own code, which does not show what "
                "it rounds; quantise it with backend='standard' or 'mase'."
            )
        for parameter in (layer.weight_name, layer.bias_name):
            if hasattr(layer, parameter) and parameter not in layer._parameters:
                raise InputValueError(
                    f"{at} of {layer.formats} has a parametrised {parameter}; call "
                    "torch.nn.utils.parametrize.remove_parametrizations before."
                )
        fitted = layer.fitted_of("input")
        if layer.enabled and fitted is not None and not fitted > 0:
            raise InputValueError(
                f"{at} has input={layer.formats.input}, whose scales are not fitted and would "
                "follow each batch; train the model, or load a checkpoint, before you export it."
            )


@torch.no_grad()
def frozen(model: nn.Module, hold: Hold | None = None) -> nn.Module:
    """A copy of the network in eval mode, on the CPU, that needs no rounding of constants.

    Args:
        model: A network or a ``TextClassifier``, on any device; not changed. Tensors that lie on
            the CPU and are not rounded are shared with the copy: write into neither.
        hold: Gives the modules that a quantised layer of the copy shall hold, by ``input``,
            ``weight`` and ``bias``; see :class:`FrozenLayer`.
    """
    network = network_of(model)
    known: dict[int, Any] = {
        id(tensor): _on_cpu(tensor) for tensor in chain(network.parameters(), network.buffers())
    }
    copy = deepcopy(network, known).eval()
    baked = Baked()
    for module in copy.modules():
        module._compiled_call_impl = None
        if isinstance(module, QuantizedLayer):
            _freeze(module, {} if hold is None else hold(module), baked)
    return copy


def _on_cpu(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    moved = tensor.detach().cpu()
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def _freeze(layer: QuantizedLayer, held: dict[str, nn.Module], baked: Baked) -> None:
    values = {layer.weight_name: layer.rounded_weight(), layer.bias_name: layer.rounded_bias()}
    dtype = layer._weight().dtype
    for name, value in values.items():
        if value is not None:
            old = layer._parameters[name]
            old = None if isinstance(old, StoredWeight) else old
            # In place of what was there: packed layers refuse to have a weight assigned.
            layer._parameters[name] = baked.parameter(old, value.to(dtype))
    layer.weight_mask, layer._coded = None, False
    for role in ROLES:
        if role != "input" or "input" in held:
            layer._parameters[f"{role}_scales"] = layer._buffers[f"{role}_fitted"] = None
    cls: Any = type(layer)
    layer.__class__ = _frozen_type(cls)
    layer.held = nn.ModuleDict(held)

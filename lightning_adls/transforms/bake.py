"""Plain layers that hold what quantised, pruned and packed ones multiply with."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import KINDS, QuantizedLayer
from lightning_adls.layers.carrying import check_replaceable
from lightning_adls.layers.stored_weight import is_stored
from lightning_adls.transforms.walk import replace_layers

# What an attention holds besides what it rounds itself.
_HELD = ("out_proj", "bias_k", "bias_v")


def bake(model: nn.Module, ignore_inputs: bool = False) -> None:
    """Turn each quantised, pruned or packed layer into the plain layer of its kind.

    The weights and biases of the plain layers hold the rounded, masked values, so that the model
    computes what it computed in eval mode, its state dict is that of a plain model, and nobody
    needs this package to use it. Hooks and attributes go along, and adapters stay adapters. A
    parameter that no layer changes, or changes to the values that it has, stays the same object;
    the others are new: make optimisers afterwards. Layers that share a weight go on to share it
    where they round it to the same values.

    What rounds the input of a layer, or sets a part of it to zero, has no place in a plain layer.

    Args:
        model: Changed in place.
        ignore_inputs: Whether that may be left out; the outputs change by it.

    Raises:
        ValueError: If a layer does so to its input and that may not be left out, ``model`` is
            itself such a layer, or a layer cannot be replaced; see
            :func:`lightning_adls.layers.carrying.check_replaceable`. The model is unchanged then.

    Example:
        >>> from lightning_adls.transforms import Prune, Quantize
        >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> Prune(0.5)(model)
        >>> Quantize({"*": {"weight": "MXInt(width=4)"}})(model)
        >>> bake(model)
        >>> list(model.state_dict()), int((model[0].weight == 0).sum()) >= 1024
        (['0.weight', '0.bias', '2.weight', '2.bias'], True)
    """
    if isinstance(model, QuantizedLayer):
        raise InputValueError(
            f"bake: model={type(model).__name__} is itself a layer, which cannot be replaced in "
            "place; give the module that holds it."
        )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    changing = [name for name, layer in layers.items() if layer.changes_input]
    if changing and not ignore_inputs:
        raise InputValueError(
            f"bake: no plain layer can round its input or set a part of it to zero, as "
            f"{', '.join(changing)} do; give ignore_inputs=True to leave that out."
        )
    baked = Baked()
    replace_layers(model, layers, lambda name, _: baked.plain(layers[name]))


class Baked:
    """Makes plain layers; those whose layers shared a parameter share one, if its values agree."""

    def __init__(self) -> None:
        # By the parameter that was rounded, which the layers keep alive, what it became.
        self._made: dict[int, list[nn.Parameter]] = {}

    @torch.no_grad()
    def plain(self, layer: QuantizedLayer) -> nn.Module:
        """The plain layer of the kind of ``layer``, in the same mode."""
        quantized_type = KINDS[layer.kind]()
        assert quantized_type is not None
        with torch.device("meta"):  # nothing is drawn: the parameters are replaced below
            new: Any = quantized_type.plain_types[0](**layer.arguments_of(layer))
        for name in _HELD:
            if hasattr(new, name):
                setattr(new, name, getattr(layer, name))
        mode, layer.training = layer.training, False
        try:
            weight, bias = layer.rounded_weight(), layer.rounded_bias()
        finally:
            layer.training = mode
        if bias is not None:
            bias = self.parameter(layer._parameters[layer.bias_name], bias)
            setattr(new, layer.bias_name, bias)
            weight = weight.to(bias.dtype)  # what was packed is unpacked in float32
        old = None if is_stored(layer) else layer._parameters[layer.weight_name]
        setattr(new, layer.weight_name, self.parameter(old, weight))
        check_replaceable(layer, new)
        new.training = mode  # not `train`: what it holds keeps modes of its own
        return cast(nn.Module, new)

    def parameter(self, rounded: nn.Parameter | None, values: Tensor) -> nn.Parameter:
        """One of these values, for what was rounded to them; None is shared with nothing."""
        if rounded is None:
            return nn.Parameter(values.clone())
        made = self._made.setdefault(id(rounded), [rounded])
        for known in made:
            if torch.equal(known, values):
                return known
        made.append(nn.Parameter(values.clone(), rounded.requires_grad))
        return made[-1]

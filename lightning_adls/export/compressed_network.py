"""A network of Transformers as compressed-tensors stores it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.export.schemes import (
    Scheme,
    UnwritableError,
    input_scale,
    scheme_of,
    weight_format,
    weight_scale,
    zero_point,
)
from lightning_adls.export.writing import encoded_weight
from lightning_adls.formats.base import widen
from lightning_adls.layers import QuantizedLayer
from lightning_adls.models.description import plain_shapes

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_NAMED = 3  # layers that a message names for each reason


class CompressedNetwork:
    """What a folder has of a network; nothing is rounded before it is asked for.

    Args:
        network: Of Transformers; not changed.
        approximate_inputs: See :func:`lightning_adls.export.compressed_tensors`.

    Attributes:
        dtype: Of all its parameters.

    Raises:
        ValueError: If the network is none of Transformers, is another one than its configuration
            says, has parameters of several data types, has a layer that the library has no scheme
            for, or none that rounds.
    """

    def __init__(self, network: nn.Module, approximate_inputs: bool) -> None:
        shapes = plain_shapes(network)
        self._network = network
        self._layers = {
            name: module
            for name, module in network.named_modules(remove_duplicate=False)
            if isinstance(module, QuantizedLayer)
        }
        self._schemes = _schemes(self._layers, approximate_inputs)
        if not self._schemes:
            raise InputValueError(
                "export: no layer of the network rounds its input or weight, so nothing can be "
                "compressed; quantise it, or use its save_pretrained."
            )
        self._tensors = _tensors_of(network)
        has = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        if wrong := sorted(dict(has.items() ^ shapes.items())):
            raise InputValueError(
                f"export: {wrong[0]!r} of the network is not as in a {type(network).__name__} of "
                "its configuration, which is all that Transformers makes it by; merge adapters, "
                "and give a network without dropped or structurally pruned parts."
            )
        dtypes = {t.dtype for t in self._tensors.values() if t.is_floating_point()}
        if len(dtypes) > 1:
            raise InputValueError(
                f"export: the network is of {', '.join(sorted(map(str, dtypes)))}, and "
                "Transformers loads all of it in one data type; convert it to one."
            )
        (self.dtype,) = dtypes

    def quantization_config(self) -> dict[str, Any]:
        """What ``config.json`` says of it: a group for each scheme, which names its layers."""
        from compressed_tensors import __version__

        groups: dict[str, list[str]] = {}
        for name, scheme in self._schemes.items():
            groups.setdefault(json.dumps(scheme.to_dict()), []).append(name)
        layouts = {scheme.layout for scheme in self._schemes.values()}
        return {
            "quant_method": "compressed-tensors",
            "version": __version__,
            "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": {"targets": names, **json.loads(text)}
                for number, (text, names) in enumerate(groups.items())
            },
            "ignore": [
                name
                for name, module in self._network.named_modules()
                if isinstance(module, nn.Linear) and name not in self._schemes
            ],
        }

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """All that is stored, by name, in main memory.

        Raises:
            ValueError: If a weight holds a NaN, or the data type of the network has not the scale
                of a layer.
        """
        stored = dict(self._plain())
        for name, scheme in self._schemes.items():
            parts = self._compressed(name, scheme)
            stored |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        # A copy of each, because a file cannot hold shared memory, and a view would keep the rest.
        return {name: t.to("cpu", copy=True).contiguous() for name, t in stored.items()}

    def _plain(self) -> Iterator[tuple[str, Tensor]]:
        """What no scheme is for: biases as they are added, masked weights, all other tensors."""
        for name, tensor in self._tensors.items():
            owner, _, key = name.rpartition(".")
            layer = self._layers.get(owner)
            if layer is None:
                yield name, tensor.detach()
            elif key == layer.bias_name:
                yield name, _bias(layer)
            elif owner not in self._schemes:
                yield name, _weight(layer)

    def _compressed(self, name: str, scheme: Scheme) -> dict[str, Tensor]:
        """What is stored of the weight and the input of a layer."""
        layer = self._layers[name]
        if layer.weight.isnan().any():
            raise InputValueError(
                f"export: the weight of {name!r} holds NaN, which compressed weights cannot."
            )
        values = _weight(layer)
        parts = {"weight": values}
        if (arguments := scheme.weights) is not None:
            scale = weight_scale(encoded_weight(layer), arguments).to(values.device)
            # What only zeros are multiplied with need not be a number of the network's data type.
            used = values.reshape(*scale.shape, -1).any(-1)
            scale = torch.where(used, scale, 1.0)
            state = {"weight": widen(values), "weight_scale": scale}
            if (zero := zero_point(arguments)) is not None:
                state["weight_zero_point"] = zero.to(values.device)
            compressor, described = _of_library(scheme)
            parts = dict(compressor.compress(state, described))
            if arguments["type"] == "int":
                parts["weight_scale"] = self._narrowed(name, "weight", scale)
        if (arguments := scheme.inputs) is not None and not arguments["dynamic"]:
            parts["input_scale"] = self._narrowed(name, "input", input_scale(layer))
            if (zero := zero_point(arguments)) is not None:
                parts["input_zero_point"] = zero
        return parts

    def _narrowed(self, name: str, role: str, scale: Tensor) -> Tensor:
        """A scale in the data type of the network, which readers convert it to."""
        narrow = scale.to(self.dtype)
        if not torch.equal(narrow.to(scale.dtype), scale):
            fmt = getattr(self._layers[name].formats, role)
            raise InputValueError(
                f"export: {name!r} ({role}={fmt}) has a scale that {self.dtype} cannot hold, the "
                "data type that the network is loaded in; convert the network by .float()."
            )
        return narrow

    @torch.no_grad()
    def check(self, folder: Path) -> None:
        """Read a folder by the library and compare it with the network.

        Raises:
            ValueError: If something is not the same.
        """
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import match_named_modules

        text = json.loads((folder / CONFIG).read_text())["quantization_config"]
        config = QuantizationConfig.model_validate(text)
        found = {
            name: scheme
            for scheme in config.config_groups.values()
            for name, _ in match_named_modules(self._network, scheme.targets, config.ignore)
        }
        if found.keys() != self._schemes.keys():
            _differ(f"{min(found.keys() ^ self._schemes.keys())!r}", "taken for another layer")
        with safe_open(folder / WEIGHTS, "pt") as file:
            for name, tensor in self._plain():
                if not torch.equal(_bytes(file.get_tensor(name)), _bytes(tensor.cpu())):
                    _differ(repr(name), "stored as other values")
            keys = list(file.keys())
            for name, scheme in found.items():
                own = [key for key in keys if key.rpartition(".")[0] == name]
                parts = {key.rpartition(".")[2]: file.get_tensor(key) for key in own}
                self._compare(name, scheme, parts)

    def _compare(self, name: str, scheme: Any, parts: dict[str, Tensor]) -> None:
        """Compare what the library makes of a layer with what the layer multiplies with."""
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize

        layer = self._layers[name]
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        weight = compressor.decompress(parts, scheme)["weight"].to(self.dtype)
        if not torch.equal(weight, _weight(layer).cpu()):
            _differ(f"{name!r} (weight={layer.formats.weight})", "decompressed to other values")
        given = scheme.input_activations
        if given is None or given.dynamic or not given.symmetric:
            return
        fmt, scales = layer.formats.input, layer.scales_of("input")
        assert fmt is not None
        # All codes, the ties between them and what saturates.
        halves = torch.arange(-(2**given.num_bits) - 2, 2**given.num_bits + 3) / 2
        x = halves.to(self.dtype) * input_scale(layer).cpu().to(self.dtype)
        expected = fmt(x, None if scales is None else scales.detach().cpu())
        if not torch.equal(fake_quantize(x, parts["input_scale"], None, given), expected):
            _differ(f"{name!r} (input={fmt})", "rounded to other values")


def _differ(who: str, what: str) -> NoReturn:
    raise InputValueError(
        f"export: {who} is {what} by compressed-tensors, so nothing was written; leave the "
        "layer out of the recipe or give it another format."
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _of_library(scheme: Scheme) -> tuple[Any, Any]:
    """Who compresses by a scheme, and the scheme as the library takes it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    described = QuantizationScheme.model_validate({**scheme.to_dict(), "targets": []})
    return BaseCompressor.get_value_from_registry(scheme.layout), described


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network, and of its quantised layers what plain ones have."""
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        tensors = {**module._parameters, **module._buffers}
        if isinstance(module, QuantizedLayer):
            kept = {module.weight_name, module.bias_name}
        else:
            kept = tensors.keys() - module._non_persistent_buffers_set
        for key, tensor in tensors.items():
            if key in kept and tensor is not None:
                found[f"{name}.{key}" if name else key] = tensor
    return found


def _schemes(layers: Mapping[str, QuantizedLayer], approximate_inputs: bool) -> dict[str, Scheme]:
    """The scheme of each layer that rounds its input or weight.

    Raises:
        ValueError: If there is none for some of them.
    """
    schemes: dict[str, Scheme] = {}
    refused: dict[str, list[str]] = {}
    for name, layer in layers.items():
        try:
            scheme = scheme_of(layer, approximate_inputs)
        except UnwritableError as error:
            refused.setdefault(str(error), []).append(name)
        else:
            if scheme is not None:
                schemes[name] = scheme
    if refused:
        each = [f"{_listed(names)} ({why})" for why, names in refused.items()]
        raise InputValueError(
            f"export: compressed-tensors has no form for {', '.join(each)}; leave these layers out "
            "of the recipe or give them other formats."
        )
    return schemes


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    listed = ", ".join(map(repr, names[:_NAMED]))
    return f"{listed} and {more} more" if more > 0 else listed


def _weight(layer: QuantizedLayer) -> Tensor:
    """The weight as it is multiplied in eval mode."""
    parameter = layer._parameters[layer.weight_name]
    assert parameter is not None
    if weight_format(layer) is not None:
        return layer.from_rows(encoded_weight(layer).decode()).to(parameter.dtype)
    weight = parameter.detach()
    return weight if layer.weight_mask is None else weight.masked_fill(~layer.weight_mask, 0.0)


def _bias(layer: QuantizedLayer) -> Tensor:
    """The bias as it is added in eval mode."""
    parameter, fmt = layer._parameters[layer.bias_name], layer.formats.bias
    assert parameter is not None
    bias = parameter.detach()
    if fmt is None or not layer.enabled:
        return bias
    scales, fitted = layer.scales_of("bias"), layer.fitted_of("bias")
    if fitted is not None and not fitted > 0:
        return fmt(bias, fmt.fit_scales(bias))  # as evaluating does
    return fmt(bias, None if scales is None else scales.detach())

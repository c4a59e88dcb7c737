"""Quantise the linear layers of a model, by a recipe that is one small YAML file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.layers import LinearFormats, QuantizedLinear
from lightning_adls.transforms.walk import linear_layers, match, replace_layers

FormatText = NumberFormat | str | None
LayerChoice = LinearFormats | FormatText | Mapping[str, FormatText]

_ROLES = tuple(field.name for field in fields(LinearFormats))


def linear_formats(choice: LayerChoice, who: str = "LinearFormats") -> LinearFormats:
    """Read the formats of a linear layer from what a YAML file can hold.

    Args:
        choice: One format (or its text) for input, weight and bias alike; a mapping from those
            three names to a format, its text or None; or None for an unquantised layer.
        who: Begins the error messages.

    Raises:
        ValueError: If a name, a format or a parameter is not known.

    Example:
        >>> str(linear_formats({"weight": "Integer(width=4, frac_width=3)"}))
        'input=None, weight=Integer(width=4, frac_width=3), bias=None'
    """
    if isinstance(choice, LinearFormats):
        return choice
    if not isinstance(choice, Mapping):
        choice = dict.fromkeys(_ROLES, choice)
    if unknown := [name for name in choice if name not in _ROLES]:
        raise ValueError(f"{who}: {unknown[0]!r} is no tensor of a layer; there are {_ROLES}.")
    return LinearFormats(**{name: _format(value, who) for name, value in choice.items()})


def _format(value: FormatText, who: str) -> NumberFormat | None:
    if value is None or isinstance(value, NumberFormat):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f"{who}: {value!r} is not the text of a number format, such as 'MXInt(width=8)'."
        )
    return parse(value)


@dataclass(frozen=True)
class Quantize:
    """Swap linear layers for :class:`QuantizedLinear`; the parameters stay the same objects.

    Args:
        layers: From shell patterns over module names (``*`` also matches dots) to what
            :func:`linear_formats` reads. Later patterns win; a layer that no pattern matches, or
            whose choice is None, is left in full precision.

    Raises:
        ValueError: If a format is not known, or, when called, a pattern matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> recipe = Quantize({"*": "Integer(width=8, frac_width=6)", "2": None})
        >>> recipe(model)
        >>> type(model[0]).__name__, type(model[2]).__name__
        ('QuantizedLinear', 'Linear')
    """

    layers: Mapping[str, LayerChoice]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise ValueError(
                f"Quantize: layers={self.layers!r} is not a mapping from patterns to formats; "
                "'*' is the pattern of every linear layer."
            )
        chosen = {
            str(pattern): linear_formats(choice, f"Quantize: {pattern!r}")
            for pattern, choice in self.layers.items()
        }
        object.__setattr__(self, "layers", chosen)

    def __call__(self, model: nn.Module) -> None:
        """Quantise ``model`` in place."""
        layers = linear_layers(model)
        formats = match(layers, self._formats(), "Quantize")
        full = LinearFormats()
        swapped = [
            name
            for name, choice in formats.items()
            if choice != full or isinstance(layers[name], QuantizedLinear)
        ]
        replace_layers(
            model, swapped, lambda name, _: QuantizedLinear.from_linear(layers[name], formats[name])
        )

    def _formats(self) -> dict[str, LinearFormats]:
        return {pattern: linear_formats(choice) for pattern, choice in self.layers.items()}

    def to_dict(self) -> dict[str, dict[str, str | None] | None]:
        """The recipe as text: what :class:`Quantize` reads back."""
        return {
            pattern: None if choice == LinearFormats() else _texts(choice)
            for pattern, choice in self._formats().items()
        }

    def __str__(self) -> str:
        return f"Quantize({self.to_dict()})"

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML."""
        text = yaml.safe_dump({"quantize": self.to_dict()}, sort_keys=False, width=200)
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Quantize":
        """Read a recipe that :meth:`save` or a person wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a mapping with the one key ``quantize``, or names an unknown
                format or parameter.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"Quantize: {path} is not YAML: {error}") from error
        if not isinstance(content, dict) or set(content) != {"quantize"}:
            raise ValueError(f"Quantize: {path} does not hold the one key 'quantize'.")
        return cls(content["quantize"])


def _texts(formats: LinearFormats) -> dict[str, str | None]:
    values = {role: getattr(formats, role) for role in _ROLES}
    return {role: None if value is None else str(value) for role, value in values.items()}


def _weight_bits(layer: nn.Linear) -> int:
    fmt = layer.formats.weight if isinstance(layer, QuantizedLinear) else None
    if fmt is None:
        return layer.weight.numel() * layer.weight.element_size() * 8
    return fmt.storage_bits(tuple(layer.weight.shape))


def bits_per_weight(model: nn.Module) -> float:
    """Storage of the linear layers' weights in bits per weight, shared scales included.

    Layers that are not quantised count with the width of their data type. Pruned weights count in
    full: a mask by itself saves no storage.
    """
    layers = linear_layers(model).values()
    return sum(map(_weight_bits, layers)) / sum(layer.weight.numel() for layer in layers)


def summarize(model: nn.Module) -> str:
    """A short table of what is quantised: layers and weights per format, bits, size in MB.

    The size counts weights in their format and every other parameter (embeddings, norms, biases)
    in its data type; 1 MB is 10^6 bytes.
    """
    layers = linear_layers(model)
    layer_count: Counter[str] = Counter()
    weight_count: Counter[str] = Counter()
    for layer in layers.values():
        formats = layer.formats if isinstance(layer, QuantizedLinear) else "full precision"
        layer_count[str(formats)] += 1
        weight_count[str(formats)] += layer.weight.numel()
    rows = [
        f"{n:>4} layers {weight_count[text]:>12,} weights  {text}"
        for text, n in layer_count.items()
    ]
    full_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    saved_bits = sum(
        layer.weight.numel() * layer.weight.element_size() * 8 - _weight_bits(layer)
        for layer in layers.values()
    )
    rows.append(
        f"{bits_per_weight(model):.2f} bits per weight; "
        f"{(full_bytes - saved_bits / 8) / 1e6:.2f} MB, {full_bytes / 1e6:.2f} MB unquantised"
    )
    return "\n".join(rows)


def state_for(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Fit a quantised model's state dict to ``model``, quantised or not.

    Scales learned by formats that ``model`` does not use are left out; a sparsity mask whose layer
    has no place for one is applied to the weight, so that nothing pruned comes back.
    """
    plain = {name for name, m in model.named_modules() if type(m) is nn.Linear}
    own = model.state_dict()
    fitted = dict(state)
    for key in state:
        layer, _, entry = key.rpartition(".")
        if entry == "input_scales" and key not in own:
            del fitted[key]
        elif entry == "weight_mask" and layer in plain:
            fitted[f"{layer}.weight"] = state[f"{layer}.weight"].masked_fill(~state[key], 0.0)
            del fitted[key]
    return fitted

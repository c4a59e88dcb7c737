"""Quantise the layers of a model, by a recipe that is one small YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.layers import (
    COMPUTING,
    KINDS,
    RECORD_KEY,
    ROLES,
    LayerFormats,
    LayerRecord,
    QuantizedLayer,
    builder,
    formats_of,
    is_switched,
    quantized_type_of,
)
from lightning_adls.layers.adapter import adapter_records_of
from lightning_adls.layers.record import ADAPTER_KEY
from lightning_adls.transforms.left_out import left_out_on_purpose, match_layers, tell_left_out
from lightning_adls.transforms.walk import layers_of, replace_layers

FormatText = NumberFormat | str | None
# What a recipe file may hold beside the patterns.
SETTINGS = ("kinds", "backend", "strict")
LayerChoice = LayerFormats | FormatText | Mapping[str, FormatText]


def layer_formats(choice: LayerChoice, who: str = "LayerFormats") -> LayerFormats:
    """Read the formats of a layer from what a YAML file can hold.

    Args:
        choice: One format (or its text) for input, weight and bias alike; a mapping from those
            three names to a format, its text or None; or None for an unquantised layer.
        who: Begins the error messages.

    Raises:
        ValueError: If a name, a format or a parameter is not known.

    Example:
        >>> str(layer_formats({"weight": "Integer(width=4, frac_width=3)"}))
        'input=None, weight=Integer(width=4, frac_width=3), bias=None'
    """
    if isinstance(choice, LayerFormats):
        return choice
    if not isinstance(choice, Mapping):
        choice = dict.fromkeys(ROLES, choice)
    if unknown := [name for name in choice if name not in ROLES]:
        raise InputValueError(f"{who}: {unknown[0]!r} is no tensor of a layer; there are {ROLES}.")
    return LayerFormats(**{name: _format(value, who) for name, value in choice.items()})


def _format(value: FormatText, who: str) -> NumberFormat | None:
    if value is None or isinstance(value, NumberFormat):
        return value
    if not isinstance(value, str):
        raise InputValueError(
            f"{who}: {value!r} is not the text of a number format, such as 'MXInt(width=8)'."
        )
    return parse(value)


@dataclass(frozen=True)
class Quantize:
    """Swap layers for quantised ones; the parameters stay the same objects.

    Args:
        layers: From shell patterns over module names (``*`` also matches dots) to what
            :func:`layer_formats` reads. Later patterns win; a layer that no pattern matches, or
            whose choice is None, is left in full precision.
        kinds: Which kinds of layers the patterns are about, of ``lightning_adls.layers.KINDS``; by
            default all but ``Embedding``.
        backend: What computes: ``standard``, ``mase`` (as MASE does, faults included) or ``chop``
            (MASE itself).
        strict: Whether to refuse a model of which a weight that is multiplied with would stay in
            full precision, unless a pattern gives None to its layer, or to the weight by its own
            name. Otherwise weights that patterns match, but that no recipe can round, give a
            warning.

    Raises:
        ValueError: If a format or the backend is not known, or, when called, a pattern matches
            nothing, the backend has no such layer or ``strict`` forbids what is left out.
        ImportError: If the backend needs a package that is not installed.

    Example:
        >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> recipe = Quantize({"*": "Integer(width=8, frac_width=6)", "2": None})
        >>> recipe(model)
        >>> type(model[0]).__name__, type(model[2]).__name__
        ('QuantizedLinear', 'Linear')
    """

    layers: Mapping[str, LayerChoice]
    kinds: Sequence[str] = COMPUTING
    backend: str = "standard"
    strict: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise InputValueError(
                f"Quantize: layers={self.layers!r} is not a mapping from patterns to formats; "
                "'*' is the pattern of every linear layer."
            )
        chosen = {
            str(pattern): layer_formats(choice, f"Quantize: {pattern!r}")
            for pattern, choice in self.layers.items()
        }
        object.__setattr__(self, "layers", chosen)
        if isinstance(self.kinds, str) or not set(self.kinds) <= set(KINDS):
            raise InputValueError(
                f"Quantize: kinds={self.kinds!r} is not a list of some of {', '.join(KINDS)}."
            )
        object.__setattr__(self, "kinds", tuple(self.kinds))
        builder(self.backend)
        if not isinstance(self.strict, bool):
            raise InputValueError(f"Quantize: strict={self.strict!r} is not true or false.")

    def __call__(self, model: nn.Module) -> None:
        """Quantise ``model`` in place."""
        layers = layers_of(model, self.kinds)
        formats = self.match(model)
        build = builder(self.backend)
        # All are built before the first is replaced: an error leaves the model as it is.
        built = {
            name: build(layers[name], choice)
            for name, choice in formats.items()
            if not self._is_done(layers[name], choice)
        }
        tell_left_out(model, self.kinds, self._formats(), formats, self.strict)
        replace_layers(model, built, lambda name, _: built[name])

    def match(self, model: nn.Module, who: str = "Quantize") -> dict[str, LayerFormats]:
        """The formats of each layer of ``model`` that a pattern matches.

        Args:
            model: Not changed.
            who: Begins the error message.

        Raises:
            ValueError: If a pattern matches nothing.
        """
        return match_layers(model, self.kinds, self._formats(), who)

    def left_out_on_purpose(self, model: nn.Module) -> list[str]:
        """The weights of other modules than layers of ``kinds`` that are given no format."""
        return left_out_on_purpose(model, self.kinds, self._formats())

    def _is_done(self, layer: nn.Module, choice: LayerFormats) -> bool:
        """Whether a layer is as it shall be: then it keeps what it learned."""
        if choice != formats_of(layer) or is_switched(layer):
            return False
        return choice == LayerFormats() or getattr(layer, "backend", None) == self.backend

    def _formats(self) -> dict[str, LayerFormats]:
        return {pattern: layer_formats(choice) for pattern, choice in self.layers.items()}

    def to_dict(self) -> dict[str, dict[str, str | None] | None]:
        """The recipe as text: what :class:`Quantize` reads back."""
        return {
            pattern: None if choice == LayerFormats() else _texts(choice)
            for pattern, choice in self._formats().items()
        }

    def __str__(self) -> str:
        others = {name: value for name, value in self._content().items() if name != "quantize"}
        return f"Quantize({self.to_dict()}{''.join(f', {k}={v}' for k, v in others.items())})"

    def _content(self) -> dict[str, Any]:
        """What a recipe file holds; what is as by default is left out."""
        content: dict[str, Any] = {"quantize": self.to_dict()}
        if tuple(self.kinds) != COMPUTING:
            content["kinds"] = list(self.kinds)
        if self.backend != "standard":
            content["backend"] = self.backend
        if self.strict:
            content["strict"] = True
        return content

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML."""
        text = yaml.safe_dump(self._content(), sort_keys=False, width=200)
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Quantize":
        """Read a recipe that :meth:`save` or a person wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a mapping with the key ``quantize`` and at most ``kinds``,
                ``backend`` and ``strict`` beside it, or names an unknown kind, backend, format or
                parameter.
            ImportError: If its backend needs a package that is not installed.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingFileError(f"Quantize: there is no file {str(path)!r}.") from error
        except OSError as error:
            raise InputValueError(
                f"Quantize: {str(path)!r} cannot be read: {error.strerror}."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputValueError(f"Quantize: {path} is not YAML: {error}") from error
        if not isinstance(content, dict) or set(content) - set(SETTINGS) != {"quantize"}:
            raise InputValueError(
                f"Quantize: {path} does not hold the key 'quantize' and at most 'kinds', 'backend' "
                "and 'strict' beside it."
            )
        return cls(
            content["quantize"],
            content.get("kinds", COMPUTING),
            content.get("backend", "standard"),
            content.get("strict", False),
        )


def _texts(formats: LayerFormats) -> dict[str, str | None]:
    values = {role: getattr(formats, role) for role in ROLES}
    return {role: None if value is None else str(value) for role, value in values.items()}


def records_of(state: Mapping[str, Any]) -> dict[str, LayerRecord]:
    """The recipe of each quantised layer, by its name, that a state dict was saved with.

    Those of plain models and older state dicts have none.

    Raises:
        ValueError: If a record is not what a quantised layer writes.
    """
    records = {}
    for key, value in state.items():
        layer, _, entry = key.rpartition(".")
        if entry == RECORD_KEY and isinstance(value, Tensor) and value.dtype == torch.uint8:
            records[layer] = LayerRecord.from_tensor(value)
    return records


def recipe_of(state: Mapping[str, Any]) -> Quantize | None:
    """The recipe that a state dict was saved with, one entry for each layer; None without one.

    Raises:
        ValueError: If its layers compute with several backends, which no one recipe does, or a
            record is not what a quantised layer writes.

    Example:
        >>> model = nn.Sequential(nn.Linear(32, 2))
        >>> Quantize({"*": {"weight": "MXInt(width=4)"}})(model)
        >>> recipe_of(model.state_dict()).to_dict()
        {'0': {'input': None, 'weight': 'MXInt(width=4, block_size=32)', 'bias': None}}
    """
    records = records_of(state)
    if not records:
        return None
    if switched := [name for name, record in records.items() if record.learned is not None]:
        raise InputValueError(
            f"recipe_of: state has scales of several formats in {switched[0]!r}, of one training "
            "for all recipes; take one out by lightning_adls.supernet.extract."
        )
    backends = sorted({record.backend for record in records.values()})
    if len(backends) > 1:
        raise InputValueError(
            f"recipe_of: state is of layers with the backends {', '.join(backends)}; quantise the "
            "model by a recipe for each."
        )
    used = {record.kind for record in records.values()}
    return Quantize(
        {escape(name): record.formats for name, record in records.items()},
        [kind for kind in KINDS if kind in used],
        backends[0],
    )


def state_for(
    model: nn.Module, state: Mapping[str, Any], other_recipe: bool = False
) -> dict[str, Any]:
    """Fit a quantised model's state dict to ``model``, quantised or not.

    Scales learned by formats that ``model`` does not use are left out, and so are the recipe of a
    layer and whether it rounds where ``model`` has a plain one, or one without formats; a sparsity
    mask whose layer has no place for one is applied to the weight, so that nothing pruned comes
    back.

    Args:
        model: What the state dict is for; not changed.
        state: Of a model of the same network; not changed.
        other_recipe: Whether the recipe of ``model`` may be another than that of ``state``, the
            alpha of adapters included. Scales of formats that differ are then left out, and fitted
            anew by the first training batch. If false, loading the state dict refuses another
            recipe.

    Raises:
        ValueError: If a plain layer would have to set a share of its input to zero.
    """
    modules = dict(model.named_modules())
    plain = {
        name: kind.weight_name
        for name, m in modules.items()
        if not isinstance(m, QuantizedLayer) and (kind := quantized_type_of(m)) is not None
    }
    unrounded = plain.keys() | {
        name for name, m in modules.items() if isinstance(m, QuantizedLayer) and not m.has_recipe
    }
    left_out = _of_another_recipe(modules, state) if other_recipe else set()
    own = model.state_dict()
    scales = [f"{role}_{entry}" for role in ROLES for entry in ("scales", "fitted")]
    fitted = dict(state)
    for key in state:
        layer, _, entry = key.rpartition(".")
        learned = entry in scales or layer.rpartition(".")[2] == "scales_by_format"
        unused = (learned and key not in own) or (entry == RECORD_KEY and layer in unrounded)
        if unused or key in left_out:
            del fitted[key]
        elif entry == "weight_mask" and layer in plain:
            weight = f"{layer}.{plain[layer]}"
            fitted[weight] = state[weight].masked_fill(~state[key], 0.0)
            del fitted[key]
        elif entry == "enabled" and layer in plain:  # a plain layer never rounds
            del fitted[key]
        elif entry == "input_sparsity" and layer in plain:
            if state[key]:
                raise InputValueError(
                    f"state_for: {key}={float(state[key])} is nothing that a plain layer can do; "
                    "prune or quantise the model before the weights are loaded."
                )
            del fitted[key]
    return fitted


def _of_another_recipe(modules: Mapping[str, nn.Module], state: Mapping[str, Any]) -> set[str]:
    """Keys of the recipes that differ, and of the scales of formats that do."""
    keys = set()
    for name, theirs in records_of(state).items():
        layer = modules.get(name)
        if not isinstance(layer, QuantizedLayer):
            continue
        ours = LayerRecord.of(layer.kind, layer.backend, layer.formats)
        if layer.record != theirs:
            keys.add(f"{name}.{RECORD_KEY}")
        for role in ROLES:
            if ours.backend != theirs.backend or getattr(ours, role) != getattr(theirs, role):
                keys |= {f"{name}.{role}_scales", f"{name}.{role}_fitted"}
    return keys | {f"{name}.{ADAPTER_KEY}" for name in adapter_records_of(state)}

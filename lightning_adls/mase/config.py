"""MASE's quantisation configs read as recipes; :mod:`lightning_adls.mase.export` writes them.

Their form is that of MASE's passes ``quantize_transform_pass``, which works on a graph, and
``quantize_module_transform_pass``, which works on modules (https://github.com/DeepWok/mase,
``src/chop/passes``).
"""

import difflib
import glob
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import LayerFormats
from lightning_adls.layers.mase.layer_config import MASE_KINDS, formats_of_config, unused_keys
from lightning_adls.mase.names import (
    ELEMENTWISE,
    FOREIGN,
    OPERATIONS,
    OPTIONS,
    SIGNS,
    TYPES,
    graph_name,
    kind_of,
)
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import layers_of

NO_LAYER = "it is no layer that recipes are about"


@dataclass(frozen=True)
class MaseRecipe:
    """What :func:`read_config` returns.

    Args:
        recipe: What the config says about layers.
        meaningless: A line for each entry and key that changes nothing here, with the reason.
    """

    recipe: Quantize
    meaningless: tuple[str, ...]


def read_config(
    source: Mapping[str, Any] | str | Path,
    model: nn.Module | None = None,
    backend: str = "mase",
) -> MaseRecipe:
    """Read a quantisation config of MASE.

    As in MASE, an entry replaces ``default`` as a whole; of several regular expressions the first
    that matches all of a name counts; ``bypass`` and the name None, in TOML ``"NA"``, leave a layer
    as it is. Layers may be named as modules are (``encoder.layer.0``) or as MASE's graph does
    (``encoder_layer_0``).

    Args:
        source: What MASE's passes take, with the key ``by``; what a TOML file holds, with
            ``passes`` and in it ``quantize``; or the path of a file with either. Is not changed.
        model: Whose layers the config is about; is not changed. Needed for regular expressions,
            names of the graph, and types that are quantised differently; without it every name is
            taken for a linear layer's.
        backend: What shall compute. Only ``standard`` has convolutions, and of MASE's kinds those
            that round each element by itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML or has no quantisation section, an entry is about nothing in
            the model, a key or value is wrong, or the model is needed.
        ImportError: If the backend needs a package that is not installed.

    Example:
        >>> signs = {"name": "binary", "weight_stochastic": False, "weight_bipolar": True}
        >>> found = read_config({"by": "type", "linear": {"config": signs}, "report": True})
        >>> str(found.recipe.layers["*"])
        'input=None, weight=Binary(), bias=None'
        >>> found.meaningless
        ('report: nothing is printed; `summarize` tells about a model',)
    """
    config = _Config.of_section(_section(source), backend)
    layers, kinds = config.patterns() if model is None else config.choices_in(model)
    recipe = Quantize(layers or {"*": None}, kinds, backend)
    return MaseRecipe(recipe, tuple(dict.fromkeys(config.meaningless)))


@dataclass
class _Config:
    """A quantisation section that is being read."""

    by: str
    entries: dict[str, dict[str, Any]]  # what each has under "config", `default` among them
    backend: str
    meaningless: list[str] = field(default_factory=list)

    @classmethod
    def of_section(cls, section: dict[str, Any], backend: str) -> "_Config":
        if (by := section.pop("by", None)) not in ("type", "name", "regex_name"):
            raise InputValueError(f"read_config: by={by!r} is not one of type, name, regex_name.")
        config = cls(by, {}, backend)
        for key, entry in section.items():
            if key in OPTIONS:
                config.meaningless.append(f"{key}: {OPTIONS[key]}")
            elif isinstance(entry, dict) and isinstance(entry.get("config"), dict):
                config.entries[key] = entry["config"]
            else:
                raise InputValueError(
                    f"read_config: entry {key!r} has no table 'config'. In TOML, dotted names need "
                    "quotes; the nested configs of MASE's own model classes cannot be read."
                )
        if config.is_quantised("default"):
            kinds = [
                kind
                for kind in TYPES
                if config._key_of_type(kind) == "default" and not config.obstacle("default", kind)
            ]
            config.meaningless.append(
                f"default: is for {', '.join(kinds) or 'no'} layers here; MASE applies it to "
                "operations such as add, matmul and relu as well"
            )
        return config

    def patterns(self) -> tuple[dict[str, LayerFormats], tuple[str, ...]]:
        """The patterns and kinds of a recipe, without knowing the model."""
        names = [key for key in self.entries if key != "default"]
        if self.by == "regex_name" and names:
            raise InputValueError(
                f"read_config: entry {names[0]!r} is a regular expression, which takes the names "
                "of layers to read; pass the model."
            )
        if self.by == "type":
            self._check_types()
            names = []
        of_kind = {kind: self.choice(self._key_of_type(kind), kind) for kind in TYPES}
        rounded = {kind: choice for kind, choice in of_kind.items() if choice != LayerFormats()}
        if len(set(rounded.values())) > 1:
            raise InputValueError(
                f"read_config: {' and '.join(rounded)} are quantised differently (by='type'), "
                "which a recipe says by the names of layers; pass the model."
            )
        patterns = dict(zip(["*"], rounded.values(), strict=False))
        for name in names:
            try:
                patterns[glob.escape(name)] = self.choice(name, "Linear")
            except ValueError as error:
                raise InputValueError(
                    f"{error} If it is no linear layer, pass the model."
                ) from error
        return patterns, tuple(rounded or TYPES)

    def choices_in(self, model: nn.Module) -> tuple[dict[str, LayerFormats], tuple[str, ...]]:
        """The same, layer by layer: ``*`` gets the commonest choice."""
        layers = {name: kind_of(layer) for name, layer in layers_of(model, tuple(TYPES)).items()}
        if not layers:
            raise InputValueError(
                f"read_config: model has no layer of the kinds {', '.join(TYPES)}."
            )
        if self.by == "type":
            self._check_types()
            keys = {name: self._key_of_type(kind) for name, kind in layers.items()}
        else:
            keys = self._keys_by_name(list(layers), [name for name, _ in model.named_modules()])
        choices = {n: self.choice(keys.get(n, "default"), kind) for n, kind in layers.items()}
        common = Counter(choices.values()).most_common(1)[0][0]
        others = {glob.escape(name): c for name, c in choices.items() if c != common}
        return {"*": common, **others}, tuple(TYPES)

    def _key_of_type(self, kind: str) -> str:
        own = self.by == "type" and TYPES[kind] in self.entries
        return TYPES[kind] if own else "default"

    def _check_types(self) -> None:
        for key in self.entries:
            if key in OPERATIONS:
                self.meaningless.append(f"{key}: {NO_LAYER}")
            elif key not in (*TYPES.values(), "default"):
                raise InputValueError(
                    f"read_config: entry {key!r} is no type (by='type'); MASE's types are "
                    f"{', '.join((*TYPES.values(), *OPERATIONS))}. Names of layers need by='name'."
                )

    def _keys_by_name(self, layers: list[str], modules: list[str]) -> dict[str, str]:
        """The entry of each layer that has one: the first that is about it."""
        spelled = {name: (name, graph_name(name)) for name in modules if name}
        chosen: dict[str, str] = {}
        for key in self.entries:
            if key == "default":
                continue
            found = self._found(key, spelled)
            mine = [name for name in layers if name in found]
            new = [name for name in mine if name not in chosen]
            chosen.update(dict.fromkeys(new, key))
            if mine and not new:
                self.meaningless.append(f"{key}: earlier entries are about its layers")
            elif not mine and (found or self._is_operation(key)):
                self.meaningless.append(f"{key}: {NO_LAYER}")
            elif not mine:
                near = difflib.get_close_matches(key, [n for m in layers for n in spelled[m]], n=1)
                raise InputValueError(
                    f"read_config: entry {key!r} (by={self.by!r}) is about nothing in the model; "
                    + (f"did you mean {near[0]!r}?" if near else f"its layers are {layers}.")
                )
        return chosen

    def _found(self, key: str, spelled: Mapping[str, tuple[str, str]]) -> list[str]:
        """The modules that an entry is about, given the ways to spell them."""
        if self.by == "regex_name":
            try:
                expression = re.compile(key)
            except re.error as error:
                raise InputValueError(
                    f"read_config: entry {key!r} is no regular expression: {error}."
                ) from error
            return [name for name, both in spelled.items() if any(map(expression.fullmatch, both))]
        found = [key] if key in spelled else [n for n, both in spelled.items() if key in both]
        if len(found) > 1:
            raise InputValueError(
                f"read_config: entry {key!r} can be {' or '.join(found)}; write it with dots."
            )
        return found

    def _is_operation(self, key: str) -> bool:
        """Whether an entry is about a function of MASE's graph, ``matmul_1`` for example."""
        if self.by == "name":
            return re.sub(r"_\d+$", "", key) in OPERATIONS
        return any(re.fullmatch(key, name) for o in OPERATIONS for name in (o, f"{o}_1"))

    def is_quantised(self, key: str) -> bool:
        """Whether there is such an entry and it asks for rounded numbers."""
        config = self.entries.get(key, {"name": None})
        if "name" not in config:
            raise InputValueError(
                f"read_config: entry {key!r} has no 'name' of a kind; None is one."
            )
        if config.get("bypass") not in (None, False, True):
            raise InputValueError(
                f"read_config: entry {key!r}: bypass={config['bypass']!r} is not true or false."
            )
        return config["name"] is not None and not config.get("bypass")

    def obstacle(self, key: str, kind: str) -> str | None:
        """Why an entry has no meaning for a kind of layer; None if it has one."""
        name = self.entries[key]["name"]
        if name in FOREIGN:
            return f"there is nothing like MASE's {name} here"
        if kind != "Linear" and self.backend != "standard":
            return f"the backend {self.backend!r} has no {kind}"
        if kind != "Linear" and name not in ELEMENTWISE:
            return f"{name} means something else for a {kind} of MASE"
        return None

    def choice(self, key: str, kind: str) -> LayerFormats:
        """The formats that an entry means for a layer; all None if that is not quantised."""
        if not self.is_quantised(key):
            return LayerFormats()
        if (obstacle := self.obstacle(key, kind)) is not None:
            if key != "default" or kind == "Linear":  # of other kinds, `of_section` tells
                self.meaningless.append(f"{key}: {obstacle}")
            return LayerFormats()
        config = {k: v for k, v in self.entries[key].items() if k not in ("name", "bypass")}
        name = self.entries[key]["name"]
        if name not in (*MASE_KINDS, "fixed"):
            raise InputValueError(
                f"read_config: entry {key!r}: name={name!r} is unknown; there are "
                f"{', '.join(MASE_KINDS)}."
            )
        outputs = [k for k in config if k.startswith("data_out_")]
        # MASE's own configs of these kinds have such keys.
        strays = [k for k in config if k.endswith("_frac_width") and name in SIGNS]
        if outputs:
            self.meaningless.append(f"{key}: {', '.join(outputs)}: outputs are not rounded here")
        if unused := unused_keys(name, config) + strays:
            self.meaningless.append(f"{key}: {', '.join(unused)}: not used by {name}")
        numbers = {k: _flag(k, v) for k, v in config.items() if k not in outputs + strays}
        return formats_of_config(name, numbers, f"read_config: entry {key!r}")


def _flag(key: str, value: Any) -> Any:
    """The value of a key; MASE's files write 0 and 1 for false and true."""
    is_flag = key == "binary_training" or key.endswith(("_stochastic", "_bipolar"))
    return bool(value) if is_flag and value in (0, 1) else value


def _section(source: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A copy of the quantisation section, with None for ``"NA"``."""
    whole: Mapping[str, Any]
    if isinstance(source, Mapping):
        whole, where = source, "the mapping"
    else:
        where = str(source)
        try:
            whole = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputValueError(f"read_config: {where} is not TOML: {error}.") from error
    passes = whole.get("passes", {"quantize": whole if "by" in whole else None})
    section = passes.get("quantize") if isinstance(passes, Mapping) else None
    if not isinstance(section, Mapping):
        raise InputValueError(
            f"read_config: {where} has no quantisation section: no [passes.quantize], no key 'by'."
        )
    return {str(key): _without_na(value) for key, value in section.items()}


def _without_na(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_na(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_na(entry) for entry in value]
    return None if isinstance(value, str) and value == "NA" else value

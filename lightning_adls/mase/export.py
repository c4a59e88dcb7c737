"""Recipes written as MASE's quantisation configs; :mod:`lightning_adls.mase.config` reads them."""

import glob
import json
from pathlib import Path
from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import COMPUTING, LayerFormats
from lightning_adls.layers.mase.layer_config import config_of_formats
from lightning_adls.mase.names import ELEMENTWISE, OPTIONS, SIGNS, TYPES, graph_name, kind_of
from lightning_adls.transforms.quantize import Quantize, layer_formats
from lightning_adls.transforms.walk import layers_of


def to_config(
    recipe: Quantize, model: nn.Module | None = None, graph: bool = False
) -> dict[str, Any]:
    """Write a recipe as the mapping that MASE's passes take.

    A recipe of the one pattern ``*`` is written by type, others by name: one of all kinds for the
    types that MASE has, which attentions and transposed convolutions are not among. Its backend is
    not written, and neither are scales, which MASE's binary layers do not have.

    Args:
        recipe: Its formats must be those of a layer of MASE.
        model: Whose layers the patterns are about. Needed for patterns other than ``*`` alone or
            names, because MASE would apply them to operations as well.
        graph: Write for ``quantize_transform_pass``, which names layers as :func:`graph_name` does,
            rather than for ``quantize_module_transform_pass``.

    Raises:
        ValueError: If MASE has no such layer or the pass cannot take it, or ``model`` is needed or
            has no such layer.

    Example:
        >>> config = to_config(Quantize({"head": "Log(width=8, exponent_bias=63)"}))
        >>> config["by"], config["head"]["config"]["weight_exponent_bias"]
        ('name', 63)
    """
    by, entries = _entries(recipe, model)
    config: dict[str, Any] = {"by": by}
    if graph:
        config["default"] = {"config": {"name": None}}
    for key, kind, formats in entries:
        spelled = graph_name(key) if graph and by == "name" else key
        if spelled in (*config, *OPTIONS, "default"):
            raise InputValueError(
                f"to_config: {key!r} is {spelled!r} in MASE, which is something else."
            )
        config[spelled] = {"config": _entry(key, kind, formats, graph)}
    return config


def _entries(
    recipe: Quantize, model: nn.Module | None
) -> tuple[str, list[tuple[str, str, LayerFormats]]]:
    """What the entries go by, and of each the key, the kind of layer and the formats."""
    if model is not None:
        layers = layers_of(model, recipe.kinds)
        named = recipe.match(model, "to_config")
        return "name", [(name, kind_of(layers[name]), choice) for name, choice in named.items()]
    choices = {pattern: layer_formats(choice) for pattern, choice in recipe.layers.items()}
    if set(choices) == {"*"}:
        kinds = tuple(TYPES) if recipe.kinds == COMPUTING else recipe.kinds
        kinds = kinds if recipe.backend == "standard" else ("Linear",)
        return "type", [(TYPES.get(kind, kind), kind, choices["*"]) for kind in kinds]
    if patterns := [pattern for pattern in choices if glob.escape(pattern) != pattern]:
        raise InputValueError(
            f"to_config: pattern {patterns[0]!r} would be about operations as well in MASE; pass "
            "the model, so that the names of its layers are written."
        )
    return "name", [(name, "Linear", choice) for name, choice in choices.items()]


def _entry(key: str, kind: str, formats: LayerFormats, graph: bool) -> dict[str, Any]:
    if formats == LayerFormats():
        # The pass on modules has no kind None; that on graphs looks for keys of what it bypasses.
        return {"name": None} if graph else {"name": "integer", "bypass": True}
    try:
        name, numbers = config_of_formats(formats)
    except ValueError as error:
        raise InputValueError(f"to_config: {key!r}: {error}") from error
    if kind not in TYPES or (kind != "Linear" and name not in ELEMENTWISE):
        raise InputValueError(
            f"to_config: {key!r}: MASE has no {kind} with {formats}; leave {kind} out of kinds, or "
            "pass the model if it has none."
        )
    if name == "binary_scaling" or (graph and name in (*SIGNS, "mxint", "mxfp")):
        passes = "pass on graphs" if graph else "passes"
        raise InputValueError(
            f"to_config: {key!r}: MASE's {passes} cannot make a layer of kind {name}."
        )
    return {"name": name, **numbers}


def write_config(
    recipe: Quantize, path: str | Path, model: nn.Module | None = None, graph: bool = False
) -> None:
    """Write a recipe as a TOML file with a section ``[passes.quantize]``; see :func:`to_config`.

    None is written ``"NA"``, as MASE does.

    Raises:
        ValueError: As :func:`to_config`; nothing is written then.
    """
    config = to_config(recipe, model, graph)
    lines = ["[passes.quantize]", f"by = {json.dumps(config.pop('by'))}"]
    for key, entry in config.items():
        # JSON writes texts, numbers, truth values and lists of them as TOML does.
        lines += ["", f"[passes.quantize.{json.dumps(key, ensure_ascii=False)}.config]"]
        for name, value in entry["config"].items():
            lines.append(f"{name} = {json.dumps('NA' if value is None else value)}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

"""Configs of MASE's linear layers, and the formats that they stand for.

A config is what MASE's layers take (``chop/nn/quantized/modules/linear.py`` of
https://github.com/DeepWok/mase): keys ``{data_in,weight,bias}_<parameter>``, without the ``name``
and the ``bypass`` of its passes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Binary, Integer, NumberFormat, ResidualSign, Ternary
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.mase.config_keys import (
    FAMILIES,
    MASE_KINDS,
    MX,
    canonical,
    check_keys,
    key_of,
    unused_keys,
)

__all__ = ["MASE_KINDS", "config_of_formats", "formats_of_config", "unused_keys"]


def formats_of_config(kind: str, config: Mapping[str, Any], who: str | None = None) -> LayerFormats:
    """The formats that a layer of MASE rounds to.

    MASE's ``block_size`` lists the sizes of a block from the last dimension backwards, and what
    the list leaves out is a whole dimension: ``[16]`` is our ``(-1, 16)``, ``[1, 16]`` our ``16``.
    Its binary layers have no scales, so that theirs are "none".

    Args:
        kind: What MASE's passes call ``name``: one of ``MASE_KINDS``, or "fixed" for "integer".
        config: Is not changed.
        who: Begins the error messages.

    Raises:
        ValueError: If the kind or a key is unknown, a key is missing or has a wrong value.

    Example:
        >>> config = {"weight_stochastic": False, "weight_bipolar": True}
        >>> str(formats_of_config("binary", config))
        'input=None, weight=Binary(), bias=None'
    """
    kind = canonical(kind)
    who = who or f"mase: {kind}"
    check_keys(who, kind, config)
    if kind in FAMILIES:
        rounded = [role for role in ROLES if kind not in MX or _given(who, kind, config, role)]
        return LayerFormats(**{role: _format(who, kind, config, role) for role in rounded})
    if kind == "ternary":
        scaled = _flag(who, config, "weight_scaling_factor")
        return LayerFormats(weight=Ternary(scale="per_channel" if scaled else "none"))
    formats: dict[str, NumberFormat] = {
        role: Binary(stochastic=_flag(who, config, key_of(role, "stochastic")))
        for role in (ROLES if kind == "binary_scaling" else ("weight",))
    }
    if kind == "binary_residual":
        levels = {"levels": config.get("data_in_levels", 2)}
        formats["input"] = _build(who, "input", ResidualSign, levels)
    return LayerFormats(**formats)


def config_of_formats(formats: LayerFormats) -> tuple[str, dict[str, Any]]:
    """The kind and the config of the MASE layer that rounds to these formats.

    The scales of ``Binary`` and ``ResidualSign`` have no counterpart and are left out. A layer of
    kind "binary_scaling" rounds its bias, whether or not that has a format here.

    Raises:
        ValueError: If MASE has no such layer.

    Example:
        >>> config_of_formats(LayerFormats(weight=Binary(scale="per_tensor")))
        ('binary', {'weight_stochastic': False, 'weight_bipolar': True})
    """
    kind = _kind_of(formats)
    if kind in FAMILIES:
        config = _family_config(kind, formats)
    elif kind == "ternary":
        config = {"weight_scaling_factor": getattr(formats.weight, "scale", "none") != "none"}
    else:
        config = _binary_config(kind, formats)
    # What has no key, such as Integer's `signed`, is found out on the way back.
    nearest = formats_of_config(kind, config)
    for role in ROLES:
        asked, there = _unscaled(formats, role), _unscaled(nearest, role)
        if asked != there and not (kind == "binary_scaling" and role == "bias" and asked is None):
            raise InputValueError(
                f"mase: {role}={asked} is not what a layer of kind {kind!r} rounds to; "
                f"the nearest is {there}."
            )
    return kind, config


def _given(who: str, kind: str, config: Mapping[str, Any], role: str) -> bool:
    """Whether a tensor whose keys may be left out has them: all of them or none."""
    keys = [key_of(role, parameter) for parameter in FAMILIES[kind][1]]
    missing = [key for key in keys if config.get(key) is None]
    if missing and (role == "weight" or len(missing) < len(keys)):
        raise InputValueError(
            f"{who}: config lacks {', '.join(missing)} beside other keys of {role}."
        )
    return not missing


def _flag(who: str, config: Mapping[str, Any], key: str) -> bool:
    value = config[key]
    if not isinstance(value, bool):
        raise InputValueError(f"{who}: {key}={value!r} is not a choice; use True or False.")
    return value


def _format(who: str, kind: str, config: Mapping[str, Any], role: str) -> NumberFormat:
    cls, parameters = FAMILIES[kind]
    values = {parameter: config[key_of(role, parameter)] for parameter in parameters}
    if values.get("exponent_bias") in ("none", "None"):
        values["exponent_bias"] = None  # TOML has no null
    if "block_size" in values:
        values["block_size"] = _block_size(who, kind, role, values["block_size"])
    if "floor" in config:
        values["rounding"] = "floor" if _flag(who, config, "floor") else "nearest"
    return _build(who, role, cls, values)


def _build(who: str, role: str, cls: type[NumberFormat], values: Mapping[str, Any]) -> NumberFormat:
    try:
        return cls(**values)
    except ValueError as error:
        # "Integer: width=0 is ..." becomes "data_in_width=0 is ...".
        parameter, _, wrong = str(error).removeprefix(f"{cls.__name__}: ").partition("=")
        raise InputValueError(f"{who}: {key_of(role, parameter)}={wrong}") from error


def _block_size(who: str, kind: str, role: str, value: Any) -> int | tuple[int, int]:
    """A format's ``block_size`` for MASE's; tiles reach over the last two dimensions at most.

    More sizes than that are those of a batch, which MASE takes apart, and are left out.
    """
    sizes = value if isinstance(value, list | tuple) and kind not in MX else [value]
    smallest = 1 if kind in MX else -1
    if not sizes or not all(type(s) is int and s >= smallest and s != 0 for s in sizes):
        right = "16" if kind in MX else "[16] or [1, 16], where -1 is a whole dimension"
        key = key_of(role, "block_size")
        raise InputValueError(f"{who}: {key}={value!r} is not a block; use the likes of {right}.")
    if kind in MX:
        return int(sizes[0])
    rows, columns = (-1, *sizes)[-2:]
    return columns if rows == 1 else (rows, columns)


def _sizes(block_size: Any) -> list[int]:
    """MASE's ``block_size`` for a format's."""
    rows, columns = block_size if isinstance(block_size, tuple) else (1, block_size)
    return [columns] if rows == -1 else [rows, columns]


def _kind_of(formats: LayerFormats) -> str:
    weight, others = formats.weight, (formats.input, formats.bias)
    if isinstance(weight, Ternary) and others == (None, None):
        return "ternary"
    if isinstance(weight, Binary):
        if isinstance(formats.input, ResidualSign):
            return "binary_residual"
        return "binary" if others == (None, None) else "binary_scaling"
    for kind, (cls, _) in FAMILIES.items():
        if type(weight) is cls and all(type(o) is cls or _optional(kind, o) for o in others):
            return kind
    raise InputValueError(
        f"mase: no kind of layer rounds to {formats}; there are {', '.join(MASE_KINDS)}."
    )


def _optional(kind: str, fmt: NumberFormat | None) -> bool:
    return kind in MX and fmt is None


def _family_config(kind: str, formats: LayerFormats) -> dict[str, Any]:
    config = {}
    for role in ROLES:
        fmt = getattr(formats, role)
        for parameter in FAMILIES[kind][1] if fmt is not None else ():
            value = getattr(fmt, parameter)
            if parameter == "block_size" and kind in MX:
                value = value[1] if isinstance(value, tuple) and value[0] == 1 else value
            elif parameter == "block_size":
                value = _sizes(value)
            config[key_of(role, parameter)] = value
    if isinstance(formats.weight, Integer) and formats.weight.rounding == "floor":
        config["floor"] = True
    return config


def _binary_config(kind: str, formats: LayerFormats) -> dict[str, Any]:
    roles = {"binary": ("weight",), "binary_scaling": ROLES, "binary_residual": ("input", "weight")}
    config: dict[str, Any] = {}
    for role in roles[kind]:
        stochastic = getattr(getattr(formats, role), "stochastic", False)
        config |= {key_of(role, "stochastic"): stochastic, key_of(role, "bipolar"): True}
    if isinstance(formats.input, ResidualSign):
        config["data_in_levels"] = formats.input.levels
    return config if kind == "binary" else config | {"binary_training": True}


def _unscaled(formats: LayerFormats, role: str) -> NumberFormat | None:
    """The format of a tensor, its block size and scale as MASE can say them."""
    fmt: NumberFormat | None = getattr(formats, role)
    if isinstance(fmt, BlockFormat) and isinstance(fmt.block_size, tuple):
        rows, columns = fmt.block_size
        return replace(fmt, block_size=columns) if rows == 1 else fmt
    if isinstance(fmt, Binary | ResidualSign):
        return replace(fmt, scale="none")
    if isinstance(fmt, Ternary) and fmt.scale != "none":
        return replace(fmt, scale="per_channel")
    return fmt

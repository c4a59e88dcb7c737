"""MASE's kinds of linear layers and the keys of their configs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_adls.errors import InputValueError
from lightning_adls.formats import (
    MXFP,
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Integer,
    Log,
    MinifloatDenorm,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
)
from lightning_adls.layers.layer_formats import ROLES

# The format that a kind rounds all tensors to, and the parameters that have a key.
FAMILIES: dict[str, tuple[type[NumberFormat], tuple[str, ...]]] = {
    "integer": (Integer, ("width", "frac_width")),
    "minifloat_denorm": (MinifloatDenorm, ("width", "exponent_width", "exponent_bias")),
    "minifloat_ieee": (MinifloatIEEE, ("width", "exponent_width", "exponent_bias")),
    "log": (Log, ("width", "exponent_bias")),
    "block_fp": (BlockFP, ("width", "exponent_width", "exponent_bias", "block_size")),
    "block_minifloat": (
        BlockMinifloat,
        ("width", "exponent_width", "exponent_bias_width", "block_size"),
    ),
    "block_log": (BlockLog, ("width", "exponent_bias_width", "block_size")),
    "mxint": (MXInt, ("width", "block_size")),
    "mxfp": (MXFP, ("exponent_width", "mantissa_width", "block_size")),
}
# Those whose inputs and biases are rounded only if they have keys; their blocks are one number.
MX = ("mxint", "mxfp")
MASE_KINDS = (*FAMILIES, "ternary", "binary", "binary_scaling", "binary_residual")
_ALIASES = {"fixed": "integer"}

_PREFIXES = {"input": "data_in", "weight": "weight", "bias": "bias"}
_RENAMED = {"mantissa_width": "frac_width"}


def canonical(kind: str) -> str:
    """The one name of a kind.

    Raises:
        ValueError: If MASE has no such kind, or none with a meaning here.
    """
    name = _ALIASES.get(kind, kind)
    if name not in MASE_KINDS:
        raise InputValueError(f"mase: kind={kind!r} is unknown; there are {', '.join(MASE_KINDS)}.")
    return name


def key_of(role: str, parameter: str) -> str:
    """MASE's key for a parameter of the input's, weight's or bias's format.

    Example:
        >>> key_of("input", "width")
        'data_in_width'
    """
    return f"{_PREFIXES[role]}_{_RENAMED.get(parameter, parameter)}"


@dataclass(frozen=True)
class _Keys:
    """What MASE demands, what it looks for besides, and what has no effect."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def _keys(roles: Iterable[str], *parameters: str) -> tuple[str, ...]:
    return tuple(key_of(role, parameter) for role in roles for parameter in parameters)


def _family_keys(kind: str) -> _Keys:
    parameters = FAMILIES[kind][1]
    if kind in MX:
        others = _keys(("input", "bias"), *parameters)
        return _Keys(_keys(("weight",), *parameters), (*others, "gptq", "clip_search"))
    optional = ("floor",) if kind == "integer" else ()
    if "block_size" in parameters:
        optional = ("data_in_skip_first_dim",)
    return _Keys(_keys(ROLES, *parameters), optional)


_SIGN = ("stochastic", "bipolar")
_WIDTHS = _keys(ROLES, "width")
_STATISTICS = _keys(ROLES, "mean", "median", "max")
_KEYS = {kind: _family_keys(kind) for kind in FAMILIES} | {
    "ternary": _Keys(
        ("weight_scaling_factor",),
        unused=(*_WIDTHS, *_STATISTICS, *_keys(("input", "bias"), "scaling_factor")),
    ),
    "binary": _Keys(
        _keys(("weight",), *_SIGN),
        unused=(*_WIDTHS, *_keys(("input", "bias"), *_SIGN), "binary_training"),
    ),
    "binary_scaling": _Keys((*_keys(ROLES, *_SIGN), "binary_training"), unused=_WIDTHS),
    "binary_residual": _Keys(
        (*_keys(("input", "weight"), *_SIGN), "binary_training"),
        ("data_in_levels", "data_in_residual_sign"),
        (*_WIDTHS, *_keys(("input", "bias"), *_SIGN)),
    ),
}

# Keys of which one value alone has a meaning here, and why.
_ONLY: dict[str, tuple[bool, str]] = {
    "binary_training": (True, "otherwise nothing is rounded: leave the layer out instead"),
    "data_in_residual_sign": (True, "otherwise the input is not rounded, as in kind 'binary'"),
    "data_in_skip_first_dim": (True, "a block never holds several samples"),
    "gptq": (False, "the layer rounds its weight by itself"),
    "clip_search": (False, "the largest magnitude of a block decides its scale"),
} | dict.fromkeys(
    _keys(ROLES, "bipolar"), (True, "MASE computes the other for tensors of four dimensions only")
)


def check_keys(who: str, kind: str, config: Mapping[str, Any]) -> None:
    """Refuse a config with keys that MASE does not know or cannot do without.

    Args:
        who: Begins the error messages.
        kind: One of ``MASE_KINDS``.
        config: Its values are checked by the formats, but for those that are no parameters.
    """
    if not isinstance(config, Mapping):
        raise InputValueError(f"{who}: config={config!r} is not a mapping of MASE's keys.")
    keys = _KEYS[kind]
    takes = f"it takes {', '.join(keys.required)}"
    if keys.optional:
        takes += f" and perhaps {', '.join(keys.optional)}"
    for key, value in config.items():
        if key not in (*keys.required, *keys.optional, *keys.unused):
            raise InputValueError(f"{who}: {key}={value!r} is no key of kind {kind!r}; {takes}.")
        if key in _ONLY and key not in keys.unused and value is not _ONLY[key][0]:
            only, why = _ONLY[key]
            raise InputValueError(f"{who}: {key}={value!r} has no meaning here; use {only}: {why}.")
    if missing := [key for key in keys.required if key not in config]:
        raise InputValueError(f"{who}: config lacks {', '.join(missing)}; {takes}.")


def unused_keys(kind: str, config: Mapping[str, Any]) -> list[str]:
    """The keys of a config that MASE knows and that change nothing, there or here.

    Raises:
        ValueError: If there is no such kind.
    """
    unused = _KEYS[canonical(kind)].unused
    return [key for key in config if key in unused]

"""Whether a state dict, whatever was done to its layers, is of the network that a model is of."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_adls.errors import InputValueError, OtherNetworkError
from lightning_adls.layers.adapter import NAME
from lightning_adls.layers.record import ADDED

_ADAPTERS = (f".lora_A.{NAME}.", f".lora_B.{NAME}.")
# Parts of layers that plain ones have not.
_PARTS = (*_ADAPTERS, ".scales_by_format.")
# What torch.compile puts into the names.
_COMPILED = "_orig_mod."


def network_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """Keys and shapes of the state dict that the plain network has; None for what is no tensor.

    Example:
        >>> from lightning_adls.transforms import Pack
        >>> model = nn.Sequential(nn.Linear(64, 2))
        >>> Pack()(model)
        >>> network_of(model.state_dict())
        {'0.bias': (2,), '0.weight': (2, 64)}
    """
    network = {}
    for key, value in state.items():
        layer, dot, entry = key.rpartition(".")
        if entry == "codes" and f"{layer}{dot}exponents" in state:
            key = f"{layer}{dot}weight"
        elif entry in ADDED or any(part in f".{key}" for part in _PARTS):
            continue
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        network[key.replace(".base_layer.", ".")] = shape
    return network


def check_network(model: nn.Module, state: Mapping[str, Any], who: str, strict: bool) -> None:
    """Refuse the state dict of another network.

    Args:
        model: Of the network that it should be.
        state: With the names that ``model`` has.
        who: Begins the error message.
        strict: Whether both need to have the same parts; if not, those that both have may not
            differ.

    Raises:
        ValueError: If it is of another one.
    """
    ours, theirs = network_of(model.state_dict()), network_of(state)
    for key in ours:
        if key in theirs and theirs[key] != ours[key]:
            raise OtherNetworkError(
                f"{who}: {key!r} has the shape {theirs[key]} in the state dict and {ours[key]} in "
                "the model; build the network that was saved, by PruneStructured where that was "
                "used."
            )
    if not strict:
        return
    if unknown := [key for key in theirs if key not in ours]:
        raise OtherNetworkError(
            f"{who}: the state dict has {unknown[0]!r}, which the model has not; build the network "
            "that was saved."
        )
    if missing := [key for key in ours if key not in theirs]:
        raise OtherNetworkError(
            f"{who}: the model has {missing[0]!r}, which the state dict has not; build the network "
            "that was saved, by Drop where that was used."
        )


def renamed(model: nn.Module, state: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The part of a state dict that ``model`` is, with the names that ``model`` has.

    The model may have been a part of what was saved, ``model.`` of a LightningModule, wrapped by
    torch (``module.``, ``_orig_mod.``), or both. A state dict that fits nowhere comes back as it
    is.

    Raises:
        ValueError: If several parts have these names.
    """
    ours = network_of(model.state_dict()).keys()
    if ours == network_of(state).keys():
        return dict(state)
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in state.items():
        key = key.replace(_COMPILED, "")
        for start in (0, *(place for place, letter in enumerate(key, 1) if letter == ".")):
            parts[key[:start]][key[start:]] = value
    fitting = [prefix for prefix, part in parts.items() if network_of(part).keys() == ours]
    if len(fitting) > 1:
        raise InputValueError(
            f"{who}: the parts {fitting[0]!r} and {fitting[1]!r} of the state dict both have the "
            "names of the model; give the module that holds them all."
        )
    return parts[fitting[0]] if fitting else dict(state)


def with_tied(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` and, under its other names, what parts of ``model`` share and it has once.

    Safetensors files hold a shared parameter under one name only.
    """
    own = model.state_dict(keep_vars=True)
    found = {id(own[key]): state[key] for key in own if key in state}
    return {**{key: found[id(own[key])] for key in own if id(own[key]) in found}, **state}

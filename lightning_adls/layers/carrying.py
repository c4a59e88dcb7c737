"""What a layer keeps of the layer whose place it takes: hooks, attributes, tensors of its own."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_adls.errors import InputValueError

_TABLES = ("_parameters", "_buffers", "_modules")
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def check_replaceable(old: nn.Module, new: nn.Module) -> None:
    """Refuse to put ``new`` in the place of ``old``, without changing either.

    Raises:
        ValueError: If ``old`` makes its weight or bias anew before each call and so holds no such
            parameter, if its methods were replaced on the object alone or compiled, if it has
            something under a name that ``new`` uses itself, or if a tensor of ``new`` has no
            values.
    """
    # One of the two is quantised and knows what their kind of layer calls its parameters.
    kind: Any = next(type(layer) for layer in (new, old) if hasattr(layer, "weight_name"))
    check_parameters(old, type(new).__name__, (kind.weight_name, kind.bias_name))
    who = f"{type(new).__name__}: layer={_text(old)}"
    # These are bound to the old layer: they would go on computing as it did.
    if methods := [name for name in vars(old) if callable(getattr(type(old), name, None))]:
        raise InputValueError(
            f"{who} has a method {methods[0]!r} of its own, which would go on calling the old "
            "layer; take it off and set it on the new one."
        )
    if old._compiled_call_impl is not None:
        raise InputValueError(f"{who} was compiled by itself; compile it after it is replaced.")
    of_class = set(dir(type(new))) - set(dir(type(old)))
    if taken := sorted(_users(old, new) & (_names(new) | of_class)):
        raise InputValueError(
            f"{who} has a {taken[0]!r} of yours, a name that {type(new).__name__} uses itself; "
            "rename it first."
        )
    weight = getattr(old, kind.weight_name, None)
    for name, tensor in (*new.named_parameters(), *new.named_buffers()):
        if tensor.is_meta and weight is not None and not weight.is_meta:
            raise InputValueError(f"{who} has no values for {name!r}; leave the layer out.")


def check_parameters(layer: nn.Module, who: str, names: Sequence[str] = ("weight", "bias")) -> None:
    """Refuse a layer whose weight or bias is no parameter.

    Raises:
        ValueError: If that is so.
    """
    for name in names:
        if name not in layer._parameters and getattr(layer, name, None) is not None:
            raise InputValueError(
                f"{who}: layer={_text(layer)} makes its {name} anew before each call (as "
                "weight_norm, spectral_norm, torch.nn.utils.prune and parametrisations do); make "
                f"it a parameter by torch's remove function (torch.nn.utils.prune.remove(layer, "
                f"{name!r}) and the like), or leave the layer out."
            )


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Give ``new``, which takes the place of ``old``, what the user had put on ``old``.

    The hooks of all sorts stay in the same dictionaries, so that their handles still remove them;
    attributes, buffers, parameters and submodules that ``old`` did not make itself are the same
    objects.
    """
    users = _users(old, new) - _names(new)
    for name in _HOOKS:
        vars(new)[name] = vars(old)[name]
    for hook in old._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            vars(hook)["module"] = weakref.ref(new)
    for table in _TABLES:
        mine, theirs = vars(new)[table], vars(old)[table]
        mine.update({name: theirs[name] for name in theirs if name in users})
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set & users
    vars(new).update({name: value for name, value in vars(old).items() if name in users})


def _users(old: nn.Module, new: nn.Module) -> set[str]:
    """What the user put on ``old``: the names that a fresh layer of its type does not have."""
    # One of the two is quantised and knows how their kind of layer is constructed.
    makers: list[Any] = [type(layer) for layer in (old, new) if hasattr(layer, "arguments_of")]
    formats = {"formats": old.formats} if hasattr(type(old), "arguments_of") else {}
    with torch.device("meta"):
        fresh = type(old)(**makers[0].arguments_of(old), **formats)
    return _names(old) - _names(fresh)


def _names(layer: nn.Module) -> set[str]:
    return set(vars(layer)).union(*(vars(layer)[table] for table in _TABLES))


def _text(layer: nn.Module) -> str:
    # Not `repr`, which has several lines where the layer has submodules.
    return f"{type(layer).__name__}({layer.extra_repr()})"

"""Finding layers by name and replacing them: the one place that walks over a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from lightning_adls.errors import InputValueError, NoMatchError
from lightning_adls.layers import COMPUTING, KINDS, is_kind
from lightning_adls.layers.carrying import carry_over

T = TypeVar("T")


def layers_of(model: nn.Module, kinds: Sequence[str] = COMPUTING) -> dict[str, nn.Module]:
    """The layers of some kinds by name, plain or quantised, in the order of ``named_modules``.

    Other subclasses are left out; see :func:`lightning_adls.layers.is_kind`.

    Raises:
        ValueError: If a kind is not one of ``lightning_adls.layers.KINDS``, or a layer of those
            kinds is lazy and has no weights yet.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputValueError(
            f"layers_of: kinds={list(kinds)} names {unknown[0]!r}; there are {', '.join(KINDS)}."
        )
    plain = [KINDS[kind][0] for kind in kinds]
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.cls_to_become in plain:
            raise InputValueError(
                f"layers_of: layer {name!r} is a {type(module).__name__} that has no weights yet; "
                "call the model on a batch first."
            )
    return {
        name: module
        for name, module in model.named_modules()
        if name and any(is_kind(module, kind) for kind in kinds)
    }


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of ``model``, as :func:`layers_of` finds them."""
    layers = layers_of(model, ("Linear",))
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def match(
    names: Iterable[str], choices: Mapping[str, T], who: str, what: str = "layers"
) -> dict[str, T]:
    """Give each name the choice of the LAST shell pattern that matches it.

    Args:
        names: Names of layers, ``encoder.layer.0.output.dense``.
        choices: What the names matched by a pattern get; ``*`` also matches dots.
        who: Begins the error message.
        what: What the names are of, in the error message.

    Raises:
        ValueError: If a pattern matches no name.

    Example:
        >>> match(["a.key", "a.value"], {"*": 8, "*.key": 4}, "Example")
        {'a.key': 4, 'a.value': 8}
    """
    names = list(names)
    chosen: dict[str, T] = {}
    for pattern, choice in choices.items():
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            known = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise NoMatchError(
                f"{who}: pattern {pattern!r} matches none of the {len(names)} {what}; "
                f"there are {known or f'no such {what}'}."
            )
        chosen.update(dict.fromkeys(matched, choice))
    return {name: chosen[name] for name in names if name in chosen}


def replace_layers(
    model: nn.Module,
    names: Iterable[str],
    make: Callable[[str, nn.Module], nn.Module],
    carry: bool = True,
) -> None:
    """Put ``make(name, layer)`` in the place of each named layer, wherever the model holds it.

    All are made before the first is replaced: an error in ``make`` leaves the model as it is.

    Args:
        model: Changed in place.
        names: As in ``model.named_modules()``.
        make: Builds the new layer from the old one; called once for a layer used twice.
        carry: Whether hooks and what the user put on a layer go on to the new one, which has to be
            the quantised, packed or plain form of the old one.
    """
    modules, names = dict(model.named_modules()), list(names)
    made = {id(modules[name]): make(name, modules[name]) for name in names}
    if carry:
        for name in {id(modules[name]): name for name in names}.values():
            carry_over(modules[name], made[id(modules[name])])
    # A layer that several parents share has several places but, in named_modules, one name.
    for parent in list(modules.values()):
        for key, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, key, made[id(child)])

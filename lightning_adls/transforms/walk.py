"""Finding layers by name and replacing them: the one place that walks over a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from lightning_adls.errors import InputValueError, NoMatchError
from lightning_adls.layers import COMPUTING, KINDS, is_kind
from lightning_adls.layers.carrying import carry_over
from lightning_adls.transforms.owners import call_layers, calling_attentions, out_of_reach

T = TypeVar("T")


def layers_of(model: nn.Module, kinds: Sequence[str] = COMPUTING) -> dict[str, nn.Module]:
    """The layers of some kinds by name, plain or quantised, in the order of ``named_modules``.

    Other subclasses are left out, see :func:`lightning_adls.layers.is_kind`, and so are layers
    whose owner would go on reading their weight past what takes their place.

    Raises:
        ValueError: If a kind is not one of ``lightning_adls.layers.KINDS``.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputValueError(
            f"layers_of: kinds={list(kinds)} names {unknown[0]!r}; there are {', '.join(KINDS)}."
        )
    unreachable = out_of_reach(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name and id(module) not in unreachable and any(is_kind(module, kind) for kind in kinds)
    }


def part_of(module: nn.Module, name: str, who: str) -> nn.Module:
    """The submodule of a name, the module itself for ``""``.

    Args:
        module: Has it.
        name: Its name.
        who: Begins the error message, with the name of the argument.

    Raises:
        ValueError: If there is none.
    """
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in module.named_children())
        raise InputValueError(
            f"{who}={name!r} is no part of {type(module).__name__}, which has "
            f"{children or 'none'}; what is made in its setup or configure_model comes too late."
        ) from error


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

    All are made before the first is replaced: an error in ``make`` leaves the model as it is. What
    reads the weight of such a layer calls it from now on: an attention its output projection, and
    torch's encoder layers all that they hold, without their fused path.

    Args:
        model: Changed in place.
        names: As in ``model.named_modules()``.
        make: Builds the new layer from the old one; called once for a layer used twice.
        carry: Whether hooks and what the user put on a layer go on to the new one, which has to be
            the quantised, packed or plain form of the old one.
    """
    modules, names = dict(model.named_modules()), list(names)
    made = {id(modules[name]): make(name, modules[name]) for name in names}
    others = (module for module in modules.values() if id(module) not in made)
    attentions = calling_attentions(others, made)
    kept = {id(modules[name]): modules[name] for name in names} if carry else {}
    kept |= {id(old): old for old, _ in attentions}
    made |= {id(old): new for old, new in attentions}
    for key, old in kept.items():
        carry_over(old, made[key])
    exchange((*modules.values(), *made.values()), made)
    call_layers(model, made.values())


def exchange(parents: Iterable[nn.Module], made: Mapping[int, nn.Module]) -> None:
    """Put new children in the place of those whose ids are given, and do nothing else."""
    # A layer that several parents share has several places but, in named_modules, one name.
    for parent in parents:
        for key, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, key, made[id(child)])

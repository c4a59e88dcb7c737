"""Finding layers by name and replacing them: the one place that walks over a model."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from lightning_adls.layers import QuantizedLinear

T = TypeVar("T")


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of ``model`` by name, in the order of ``named_modules``.

    Subclasses other than ours are left out: their owners may read ``weight`` without calling the
    layer, as ``nn.MultiheadAttention`` does, and a replacement would change nothing.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if name and type(module) in (nn.Linear, QuantizedLinear)
    }


def match(names: Iterable[str], choices: Mapping[str, T], who: str) -> dict[str, T]:
    """Give each name the choice of the LAST shell pattern that matches it.

    Args:
        names: Names of layers, ``encoder.layer.0.output.dense``.
        choices: What the names matched by a pattern get; ``*`` also matches dots.
        who: Begins the error message.

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
            raise ValueError(
                f"{who}: pattern {pattern!r} matches none of the {len(names)} layers; "
                f"there are {known or 'no such layers'}."
            )
        chosen.update(dict.fromkeys(matched, choice))
    return {name: chosen[name] for name in names if name in chosen}


def replace_layers(
    model: nn.Module, names: Iterable[str], make: Callable[[str, nn.Module], nn.Module]
) -> None:
    """Put ``make(name, layer)`` in the place of each named layer, wherever the model holds it.

    Args:
        model: Changed in place.
        names: As in ``model.named_modules()``.
        make: Builds the new layer from the old one; called once for a layer used twice.
    """
    modules = dict(model.named_modules())
    made = {id(modules[name]): make(name, modules[name]) for name in names}
    # A layer that several parents share has several places but, in named_modules, one name.
    for parent in list(modules.values()):
        for key, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, key, made[id(child)])

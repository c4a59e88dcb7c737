"""What a recipe leaves in full precision: told in a warning, or refused."""

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import KINDS, LayerFormats
from lightning_adls.transforms.multiplied import Use, multiplied_weights, shortened
from lightning_adls.transforms.walk import layers_of, match

_Choices = Mapping[str, LayerFormats]


def match_layers(
    model: nn.Module, kinds: Sequence[str], choices: _Choices, who: str
) -> dict[str, LayerFormats]:
    """The choice for each layer of some kinds; see :func:`lightning_adls.transforms.walk.match`.

    A pattern whose choice is None may also be about weights that no recipe can round.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    layers = layers_of(model, kinds)
    unmatched = [
        pattern
        for pattern, choice in choices.items()
        if choice == LayerFormats() and not any(fnmatchcase(name, pattern) for name in layers)
    ]
    # Only then: it walks over all parameters.
    others = [
        name
        for uses in (multiplied_weights(model) if unmatched else ())
        for use in uses
        if use.module_name not in layers
        for name in _names(use)
    ]
    about_others = {p for p in unmatched if any(fnmatchcase(name, p) for name in others)}
    about_layers = {p: choice for p, choice in choices.items() if p not in about_others}
    return match(layers, about_layers, who)


def left_out_on_purpose(model: nn.Module, kinds: Sequence[str], choices: _Choices) -> list[str]:
    """The weights of other modules than layers of ``kinds`` that are given no format."""
    layers = layers_of(model, kinds)
    return [
        use.name
        for uses in multiplied_weights(model)
        for use in uses
        if use.module_name not in layers and _is_on_purpose(_choice(use, choices))
    ]


def tell_left_out(
    model: nn.Module,
    kinds: Sequence[str],
    choices: _Choices,
    formats: Mapping[str, LayerFormats],
    strict: bool,
) -> None:
    """Warn of what a recipe is about and cannot round, or refuse what it does not round.

    What a recipe sets to None, or gives no format for the weight, is left out on purpose.

    Args:
        model: Before the recipe changes it.
        kinds: Of the layers that the recipe is about.
        choices: By pattern, the recipe's.
        formats: By name, those of the layers that it matches.
        strict: Whether each weight that is multiplied with and stays in full precision is refused;
            otherwise those that a pattern matches, but which are of no kind, give a warning.

    Raises:
        ValueError: If there are such weights and ``strict`` is true.
    """
    planned = {id(model.get_submodule(name)) for name in formats}
    left_out: dict[str, str | None] = {}
    for use in (use for uses in multiplied_weights(model) for use in uses):
        if use.format is not None or (use.obstacle is None and id(use.module) in planned):
            continue  # rounded, or as the recipe says
        choice = _choice(use, choices)
        if _is_on_purpose(choice):
            continue
        is_about = choice is not None and use.obstacle is not None and _kind(use) in kinds
        if strict or is_about:
            left_out[use.label] = use.reason
    if not left_out:
        return
    named = shortened(f"{label} ({reason})" for label, reason in left_out.items())
    if strict:
        raise InputValueError(
            f"Quantize: strict=True, but {named} would stay in full precision; give None in the "
            "recipe to what may stay so."
        )
    warnings.warn(
        f"Quantize: {named} cannot be rounded and stay in full precision, though patterns match "
        "them; give them None in the recipe if that is meant.",
        stacklevel=3,
    )


def _names(use: Use) -> tuple[str, str]:
    """What a pattern may match: the module, as for layers, or the weight."""
    return use.module_name, use.name


def _choice(use: Use, choices: _Choices) -> LayerFormats | None:
    found = None
    for pattern, choice in choices.items():
        if any(fnmatchcase(name, pattern) for name in _names(use)):
            found = choice
    return found


def _is_on_purpose(choice: LayerFormats | None) -> bool:
    return choice is not None and choice.weight is None


def _kind(use: Use) -> str:
    """Of the layers that a recipe for it would be about; what is of none is taken for linear."""
    names = (base.__name__ for base in type(use.module).__mro__)
    return next((name for name in names if name in KINDS), "Linear")

"""Bringing a recipe that costs too much within its limits, by formats of fewer bits."""

import random
from collections.abc import Callable, Iterator

from lightning_adls.formats import NumberFormat
from lightning_adls.layers import ROLES, LayerFormats
from lightning_adls.search.format_space import NONE, FormatSpace
from lightning_adls.transforms.quantize import Quantize, layer_formats

_FULL_BITS = 32.0


def shrunk(
    space: FormatSpace,
    recipe: Quantize,
    fits: Callable[[Quantize], bool],
    rng: random.Random,
    roles: tuple[str, ...] = ("weight",),
) -> Quantize | None:
    """Give layer after layer, in random order, formats of fewer bits until the recipe fits.

    As few layers as possible are changed, so that what a sampler proposed stays recognisable; in a
    search under a budget it is tried in the place of the proposal (repair of infeasible candidates,
    Michalewicz 1996, "Genetic Algorithms + Data Structures = Evolution Programs", chapter 7).

    Args:
        space: What each layer may choose.
        recipe: Of the space.
        fits: Whether a recipe is within the limits. Where it is, so is every one of fewer bits.
        rng: Draws layers and formats.
        roles: The tensors whose formats are changed.

    Returns:
        None if no recipe on the way to the smallest formats fits.
    """
    steps = [recipe, *_smaller(space, recipe, rng, roles)]
    if not fits(steps[-1]):
        return None
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(steps[middle]):
            high = middle
        else:
            low = middle + 1
    return steps[low]


def _smaller(
    space: FormatSpace, recipe: Quantize, rng: random.Random, roles: tuple[str, ...]
) -> Iterator[Quantize]:
    """Recipes of ever fewer bits; each changes one tensor of one layer, or its class."""
    chosen = {layer: layer_formats(recipe.layers[layer]) for layer in space.layers}
    turns = [(layer, role) for layer in space.layers for role in roles]
    while turns:
        rng.shuffle(turns)
        left = []
        for layer, role in turns:
            options = _options(space, chosen[layer], role)
            if options:
                chosen[layer] = rng.choice(options)
                left.append((layer, role))
                yield Quantize(dict(chosen), recipe.kinds, recipe.backend)
        turns = left


def _options(space: FormatSpace, formats: LayerFormats, role: str) -> list[LayerFormats]:
    """The same formats with a smaller one for a tensor; if there is none, those of another class.

    Another class is entered by formats none of which has more bits than before.
    """
    texts = {each: _text(getattr(formats, each)) for each in ROLES}
    own = [c for c in space.classes.values() if all(texts[each] in c[each] for each in ROLES)]
    bits = {each: _bits(text) for each, text in texts.items()}
    smaller = {text: None for c in own for text in c[role] if _bits(text) < bits[role]}
    if smaller:
        return [layer_formats({**_read(texts), role: text}) for text in smaller]
    found = []
    for other in space.classes.values():
        within = {each: [t for t in other[each] if _bits(t) <= bits[each]] for each in ROLES}
        within[role] = [text for text in other[role] if _bits(text) < bits[role]]
        if within[role]:
            others = {each: within[each] or list(other[each]) for each in ROLES}
            # Of what does not matter, as many bits as there may be.
            largest = {each: max(others[each], key=_bits) for each in ROLES}
            found += [layer_formats(_read({**largest, role: text})) for text in within[role]]
    return found


def _bits(text: str) -> float:
    return _FULL_BITS if text == NONE else NumberFormat.parse(text).bits


def _text(fmt: NumberFormat | None) -> str:
    return NONE if fmt is None else str(fmt)


def _read(texts: dict[str, str]) -> dict[str, str | None]:
    return {role: None if text == NONE else text for role, text in texts.items()}

"""The recipes of a space that a training for all of them is made of."""

import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.layers import ROLES, LayerFormats
from lightning_adls.search.format_space import NONE, FormatSpace
from lightning_adls.transforms.quantize import Quantize

_FULL_BITS = 32.0


def smallest(space: FormatSpace) -> Quantize:
    """The recipe of the fewest bits: of each weight, of equals of the input, then of the bias.

    Full precision counts as 32 bits. Of formats of equal bits the first is taken.

    Example:
        >>> widths = {"width": [8, 2, 4]}
        >>> space = FormatSpace.from_templates(["*"], {"mx": {"weight": "MXInt"}}, widths)
        >>> smallest(space).to_dict()
        {'*': {'input': None, 'weight': 'MXInt(width=2, block_size=32)', 'bias': None}}
    """
    return _extreme(space, min)


def largest(space: FormatSpace) -> Quantize:
    """The recipe of the most bits, as :func:`smallest` counts them."""
    return _extreme(space, max)


def _extreme(space: FormatSpace, choose: Callable[..., Any]) -> Quantize:
    candidates = []
    for roles in space.classes.values():
        formats = {role: [_format(text) for text in roles[role]] for role in ROLES}
        # Of equals `min` and `max` give the first.
        candidates.append(
            LayerFormats(**{role: choose(formats[role], key=_bits) for role in ROLES})
        )
    found = choose(candidates, key=_rank)
    return Quantize(dict.fromkeys(space.layers, found), space.kinds)


def _rank(formats: LayerFormats) -> tuple[float, ...]:
    return tuple(map(_bits, (formats.weight, formats.input, formats.bias)))


def _bits(fmt: NumberFormat | None) -> float:
    return _FULL_BITS if fmt is None else fmt.bits


def draw(space: FormatSpace, rng: random.Random) -> Quantize:
    """A recipe at random: of each layer the class, then the format of each tensor, all alike."""
    classes = tuple(space.classes.values())
    recipe = {}
    for layer in space.layers:
        roles = rng.choice(classes)
        recipe[layer] = LayerFormats(**{role: _format(rng.choice(roles[role])) for role in ROLES})
    return Quantize(recipe, space.kinds)


def learned_formats(space: FormatSpace) -> dict[str, tuple[NumberFormat, ...]]:
    """By tensor, the formats of a space that learn scales, each once."""
    found: dict[str, dict[NumberFormat, None]] = {role: {} for role in ROLES}
    for role, roles in product(ROLES, space.classes.values()):
        formats = map(_format, roles[role])
        found[role] |= {fmt: None for fmt in formats if fmt is not None and fmt.learns_scales}
    return {role: tuple(formats) for role, formats in found.items()}


def choices_of(space: FormatSpace) -> Mapping[str, bool]:
    """By pattern, whether the layers may be rounded."""
    rounds = any(
        text != NONE for roles in space.classes.values() for each in roles.values() for text in each
    )
    return dict.fromkeys(space.layers, rounds)


@lru_cache(maxsize=4096)
def _format(text: str) -> NumberFormat | None:
    return None if text == NONE else parse(text)

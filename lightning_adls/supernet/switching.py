"""A module whose layers are switched from one recipe to another, on one copy of the weights."""

import copy
from typing import TypeVar

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import LayerFormats, QuantizedLayer, is_switched, quantized
from lightning_adls.search.format_space import FormatSpace
from lightning_adls.supernet.recipes import largest, learned_formats
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import layers_of, match, part_of, replace_layers

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def make_supernet(module: nn.Module, space: FormatSpace) -> None:
    """Prepare the layers of a module for all recipes of a space, in place.

    They become quantised layers on the same parameters, with scales of each format that learns
    some, in the state dict under ``scales_by_format``. Masks and what was learned before are kept;
    a module that is prepared already stays as it is. Layers that the space does not name are left
    alone. The largest recipe is switched on.

    Args:
        module: Changed in place; make optimizers afterwards.
        space: What each layer may choose.

    Raises:
        ValueError: If a pattern of the space matches no layer, or a layer cannot be quantised.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> widths = {"width": [2, 4]}
        >>> space = FormatSpace.from_templates(["0", "2"], {"": "LearnedInteger"}, widths)
        >>> make_supernet(net, space)
        >>> net[0].scales_by_format
        ... # doctest: +ELLIPSIS
        ScalesByFormat(input: LearnedInteger(width=2); LearnedInteger(width=4), weight: ...)
    """
    layers = layers_of(module, space.kinds)
    names = match(layers, dict.fromkeys(space.layers, True), "supernet")
    learned = learned_formats(space)
    made = {}
    for name in names:
        layer = layers[name]
        if isinstance(layer, QuantizedLayer) and layer.backend != "standard":
            raise InputValueError(
                f"supernet: layer {name!r} computes with backend={layer.backend!r}, whose layers "
                "have one format each; use 'standard'."
            )
        if not is_switched(layer):
            formats = layer.formats if isinstance(layer, QuantizedLayer) else LayerFormats()
            made[name] = quantized(layer, formats)
    for name in names:
        prepared = made.get(name, layers[name])
        assert isinstance(prepared, QuantizedLayer)
        prepared.learn_by_format(learned)
    replace_layers(module, made, lambda name, _: made[name])
    Supernet(module).switch(largest(space))


class Supernet:
    """Switches the layers that :func:`make_supernet` prepared; the module itself stays as it is.

    Args:
        module: Prepared by :func:`make_supernet`.

    Raises:
        ValueError: If no layer is prepared.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, QuantizedLayer) and is_switched(layer)
        }
        if not self._layers:
            raise InputValueError(
                f"supernet: module={type(module).__name__} has no layer that is switched between "
                "formats; prepare it by lightning_adls.supernet.make_supernet."
            )
        # By the patterns and kinds of a recipe, the pattern that each layer gets its formats from.
        self._matched: dict[tuple[tuple[str, ...], ...], dict[str, str]] = {}

    def switch(self, recipe: Quantize) -> None:
        """Round by a recipe from now on; layers that it does not name are in full precision.

        Nothing is made anew: no layer, no parameter, no optimizer.

        Args:
            recipe: Of backend ``standard``. It may be outside of the space that was trained, but
                for formats that learn scales.

        Raises:
            ValueError: If a pattern matches no layer, or the layer is not trained in a format that
                learns scales.
        """
        patterns = self._patterns(recipe)
        plain = LayerFormats()
        for name, layer in self._layers.items():
            pattern = patterns.get(name)
            formats = plain if pattern is None else recipe.layers[pattern]
            assert isinstance(formats, LayerFormats)  # recipes have read them
            layer.switch(formats)

    def _patterns(self, recipe: Quantize) -> dict[str, str]:
        key = (tuple(recipe.layers), tuple(recipe.kinds))
        if key not in self._matched:
            check_backend(recipe)
            names = [name for name, layer in self._layers.items() if layer.kind in recipe.kinds]
            self._matched[key] = match(names, {p: p for p in recipe.layers}, "supernet")
        return self._matched[key]


def extract(module: ModuleT, recipe: Quantize, part: str = "") -> ModuleT:
    """The module of one recipe, as :class:`Quantize` makes it, with what was learned for all.

    It computes, bit for bit, what the module computes that is switched to the recipe, and its state
    dict loads into any module that was quantised by the recipe.

    Args:
        module: Prepared by :func:`make_supernet`, or trained by :class:`SupernetTraining`; not
            changed.
        recipe: What to round; see :meth:`Supernet.switch`.
        part: Name of the submodule that the names of the recipe are within; by default the module.

    Returns:
        A copy, with parameters of its own.

    Raises:
        ValueError: If there is no such part, a pattern matches no layer, the backend is not
            ``standard``, or a layer is not trained in a format that learns scales.
    """
    check_backend(recipe)
    new = copy.deepcopy(module)
    network = part_of(new, part, "supernet: part")
    Supernet(network).switch(recipe)  # refuses what was not learned
    recipe(network)
    left = [name for name, layer in network.named_modules() if is_switched(layer)]
    replace_layers(network, left, lambda _, layer: quantized(layer, LayerFormats()))
    return new


def check_backend(recipe: Quantize) -> None:
    """Refuse a recipe that other layers would compute than were trained."""
    if recipe.backend != "standard":
        raise InputValueError(
            f"supernet: backend={recipe.backend!r} has layers of one format each; use 'standard'."
        )

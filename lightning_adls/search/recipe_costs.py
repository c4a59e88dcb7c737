"""What recipes cost, known without a model of theirs being made and trained."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import COMPUTING, LayerFormats, quantized
from lightning_adls.planning.samples import unrounded
from lightning_adls.planning.storage import UNITS, Storage
from lightning_adls.search.format_space import NONE, FormatSpace
from lightning_adls.transforms.bit_operations import (
    FULL_PRECISION_BITS,
    Macs,
    bit_operations,
    width_of,
)
from lightning_adls.transforms.cost import costs, weight_bits
from lightning_adls.transforms.quantize import Quantize, layer_formats
from lightning_adls.transforms.walk import layers_of, match


class RecipeCosts:
    """The costs of recipes for one network; nothing is run.

    Args:
        model: The network, by whose names the recipes call its layers. It stays as it is, and its
            parameters are shared, not copied.
        macs: Of the network, to tell ``bit_operations`` too.

    Example:
        >>> known = RecipeCosts(nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 2)))
        >>> known(Quantize({"*": "Integer(width=4)"}))["bits_per_weight"]
        4.0
    """

    def __init__(self, model: nn.Module, macs: Macs | None = None) -> None:
        self._model = unrounded(model, COMPUTING)
        self._macs = macs
        self._layers = layers_of(self._model, COMPUTING)
        self._plain = costs(self._model)
        self._storages: dict[str, Storage] | None = None
        with suppress(InputValueError):  # of a layer that no recipe can round
            self._storages = {unit: Storage(self._model, self._layers, unit) for unit in UNITS}
        # By layer and formats, as storages count: bits in each unit, and learned scales.
        self._known: dict[tuple[str, LayerFormats], tuple[int, ...]] = {}

    def __call__(self, choice: Quantize) -> Mapping[str, float]:
        """By name, what :func:`lightning_adls.transforms.costs` says of the quantised network.

        With ``bit_operations`` beside them where the network's ``macs`` are known.
        """
        formats = self._formats(choice)
        return self._of_model(choice) if formats is None else self._of_layers(formats)

    def _formats(self, choice: Quantize) -> dict[str, LayerFormats] | None:
        """By layer; None where layers cannot be counted one by one."""
        others = choice.backend != "standard" or choice.strict or set(choice.kinds) != {*COMPUTING}
        if self._storages is None or others:
            return None
        chosen = match(list(self._layers), choice.layers, "Quantize")
        formats = {name: layer_formats(chosen.get(name)) for name in self._layers}
        # A weight that is rounded in several ways is stored in several, or else in full.
        tied = (names for storage in self._storages.values() for names in storage.tied)
        alike = all(len({formats[name] for name in names}) == 1 for names in tied)
        return formats if alike else None

    def _of_layers(self, formats: Mapping[str, LayerFormats]) -> dict[str, float]:
        assert self._storages is not None
        each = [self._counted(*cell) for cell in formats.items()]
        *bits, learned = map(sum, zip(*each, strict=True)) if each else (0,) * (len(UNITS) + 1)
        found = dict(self._plain)
        for (unit, storage), of_layers in zip(self._storages.items(), bits, strict=True):
            found[unit] = storage.value(storage.fixed + of_layers)
        found["parameters"] += learned
        if self._macs is not None:
            found["bit_operations"] = (
                sum(
                    macs * prod(map(width_of, (formats[name].input, formats[name].weight)))
                    if name in formats
                    else macs * FULL_PRECISION_BITS**2
                    for name, macs in self._macs.weights.items()
                )
                + self._macs.others * FULL_PRECISION_BITS**2
            )
        return found

    def _counted(self, name: str, formats: LayerFormats) -> tuple[int, ...]:
        assert self._storages is not None
        if (name, formats) not in self._known:
            storages = self._storages.values()
            bits = [storage.bits([name], [formats])[name][0] for storage in storages]
            learned = self._storages["size_mb"].learned(name, formats)
            self._known[name, formats] = (*bits, learned)
        return self._known[name, formats]

    def _of_model(self, choice: Quantize) -> dict[str, float]:
        choice(self._model)
        found = costs(self._model)
        if self._macs is not None:
            found["bit_operations"] = bit_operations(self._model, self._macs)
        Quantize({"*": None}, COMPUTING)(self._model)
        return found

    def least(self, space: FormatSpace) -> Mapping[str, float]:
        """The least of each cost that a recipe of the space can have, each by itself."""
        names = ["bits_per_weight", "size_mb"]
        names += ["bit_operations"] if self._macs is not None else []
        return {name: self(self._cheapest(space, name))[name] for name in names}

    def _cheapest(self, space: FormatSpace, cost: str) -> Quantize:
        """The recipe of the least cost: what each choice costs does not depend on the others."""
        chosen = match(list(self._layers), {name: name for name in space.layers}, "RecipeCosts")
        recipe: dict[str, dict[str, str | None]] = {}
        for pattern in space.layers:
            members = [name for name, by in chosen.items() if by == pattern]
            options = [self._cheapest_of(roles, cost, members) for roles in space.classes.values()]
            _, texts = min(options, key=lambda option: option[0])
            recipe[pattern] = {role: None if t == NONE else t for role, t in texts.items()}
        return Quantize(recipe)

    def _cheapest_of(
        self, roles: Mapping[str, Sequence[str]], cost: str, members: Sequence[str]
    ) -> tuple[int, dict[str, str]]:
        """What the cheapest formats of a class cost some layers, and their texts."""
        shares, texts = [], {}
        for role, choices in roles.items():
            costs_of = [self._share(cost, members, role, text) for text in choices]
            shares.append(min(costs_of))
            texts[role] = choices[costs_of.index(shares[-1])]
        return (prod(shares) if cost == "bit_operations" else sum(shares)), texts

    def _share(self, cost: str, members: Sequence[str], role: str, text: str) -> int:
        """Bits that the tensors of one role take in all layers, or the factor of their width."""
        fmt = None if text == NONE else NumberFormat.parse(text)
        if cost == "bit_operations":
            return 1 if role == "bias" else width_of(fmt)
        if role != "weight":
            scales = None if fmt is None else fmt.initial_scales()
            return 0 if scales is None else len(members) * 8 * scales.nbytes
        formats = LayerFormats(weight=fmt)
        return sum(weight_bits(quantized(self._layers[name], formats)) for name in members)

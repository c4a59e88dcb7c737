"""What recipes cost, known without a model of theirs being made and trained."""

from collections.abc import Mapping, Sequence
from math import prod

from torch import nn

from lightning_adls.formats import NumberFormat
from lightning_adls.layers import COMPUTING, LayerFormats, quantized
from lightning_adls.planning.samples import unrounded
from lightning_adls.search.format_space import NONE, FormatSpace
from lightning_adls.transforms.bit_operations import Macs, bit_operations, width_of
from lightning_adls.transforms.cost import costs, weight_bits
from lightning_adls.transforms.quantize import Quantize
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

    def __call__(self, choice: Quantize) -> Mapping[str, float]:
        """By name, what :func:`lightning_adls.transforms.costs` says of the quantised network.

        With ``bit_operations`` beside them where the network's ``macs`` are known.
        """
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

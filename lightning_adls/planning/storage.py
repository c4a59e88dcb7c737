"""What each choice of formats adds to the storage of a model, in bits, as ``costs`` counts it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import torch
from torch import Tensor, nn

from lightning_adls.formats import LearnedInteger, NumberFormat
from lightning_adls.layers import ROLES, LayerFormats, quantized, weight_of
from lightning_adls.layers.stored_weight import is_stored
from lightning_adls.transforms.cost import stored_bits
from lightning_adls.transforms.multiplied import Use, weights_of

UNITS = ("bits_per_weight", "size_mb")


@dataclass(frozen=True)
class _Shape:
    """The weight of a layer as rows, and the tensors that it can round."""

    rows: tuple[int, int]
    roles: tuple[str, ...]


class Storage:
    """Bits of a model whose layers of some names are free to be given formats.

    Args:
        model: In which those layers round nothing.
        names: Of the layers.
        unit: Which of the costs is counted: ``bits_per_weight``, of weights that are multiplied
            with, or ``size_mb``, of all parameters.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], unit: str) -> None:
        self.size = unit == "size_mb"
        self.layers = {name: model.get_submodule(name) for name in names}
        free = {id(layer): name for name, layer in self.layers.items()}
        # By the first of the layers that hold it.
        self._weights: dict[str, tuple[Use, ...]] = {}
        # Layers whose weight is held elsewhere too.
        self._sharing: set[str] = set()
        self.tied: list[set[str]] = []
        self.fixed = 8 * sum(p.nbytes for p in model.parameters()) if self.size else 0
        self.count = 0
        for found in weights_of(model):
            uses = found if self.size else tuple(use for use in found if use.multiplied)
            if not uses:
                continue
            self.count += uses[0].elements
            owners = [
                free[id(u.module)] for u in uses if u.obstacle is None and id(u.module) in free
            ]
            if not self.size:
                self.fixed += 0 if owners else stored_bits(uses)
            elif owners:
                self.fixed -= uses[0].full_bits
            elif not is_stored(uses[0].module):  # whose parameter is its storage
                self.fixed -= uses[0].full_bits - stored_bits(uses, scales=False)
            if owners:
                self._weights[owners[0]] = uses
                self.tied.append(set(owners))
                if len(uses) > 1:
                    self._sharing.update(owners)
        self._shapes: dict[object, _Shape] = {}
        self._shape_of = {name: self._shape(layer) for name, layer in self.layers.items()}

    def _shape(self, layer: nn.Module) -> "_Shape":
        look = repr(layer)  # layers that look the same are made only once
        if look not in self._shapes:
            learning = LearnedInteger()
            made = quantized(layer, LayerFormats(learning, learning, learning))
            rows, columns = made.to_rows(weight_of(layer)).shape
            roles = tuple(role for role in ROLES if made.scales_of(role) is not None)
            self._shapes[look] = _Shape((rows, columns), roles)
        return self._shapes[look]

    def bits(self, names: Iterable[str], choices: Sequence[LayerFormats]) -> dict[str, list[int]]:
        """Of layers, in each choice: the weight, for the first that holds it, and scales."""
        found: dict[str, list[int]] = {}
        alike: dict[object, list[int]] = {}
        for name in names:
            uses = self._weights.get(name, ())
            dtype = uses[0].tensor.dtype if uses else None
            key = name if name in self._sharing else (self._shape_of[name], dtype)
            if key not in alike:
                alike[key] = [self._bits(name, choice) for choice in choices]
            found[name] = alike[key]
        return found

    def _bits(self, name: str, choice: LayerFormats) -> int:
        uses, shape = self._weights.get(name, ()), self._shape_of[name]
        bits = 0
        if len(uses) > 1:
            bits = stored_bits(self._given(uses, choice), scales=not self.size)
        elif uses and choice.weight is None:
            bits = uses[0].full_bits
        elif uses and choice.weight is not None:
            bits = choice.weight.storage_bits(shape.rows)
        if self.size:
            # Scales of a weight that one layer holds are in its storage.
            learning = [r for r in shape.roles if r != "weight" or name in self._sharing]
            bits += sum(_learned_bits(getattr(choice, role)) for role in learning)
        return bits

    def learned(self, name: str, choice: LayerFormats) -> int:
        """Scales that a layer learns in a choice, each of which is a parameter."""
        return sum(len(_scales(getattr(choice, role))) for role in self._shape_of[name].roles)

    def _given(self, uses: Sequence[Use], choice: LayerFormats) -> list[Use]:
        """The uses of a weight, with those layers that are free as the choice makes them."""
        mine = {id(layer) for layer in self.layers.values()}
        made = {
            id(use.module): quantized(use.module, choice)
            for use in uses
            if use.obstacle is None and id(use.module) in mine
        }
        return [replace(use, module=made.get(id(use.module), use.module)) for use in uses]

    def limit(self, budget: float) -> int:
        """Most bits whose value is within a budget."""
        most = floor(Fraction(budget) * (8 * 10**6 if self.size else self.count))
        # What a budget was read from is a float, which may lie just below its quotient.
        return most + (self.value(most + 1) <= budget)

    def value(self, bits: int) -> float:
        """Bits in the unit."""
        return bits / 8 / 1e6 if self.size else bits / self.count


def _learned_bits(fmt: NumberFormat | None) -> int:
    return 8 * _scales(fmt).nbytes


def _scales(fmt: NumberFormat | None) -> Tensor:
    """Those that a format starts to learn from; empty if it learns none."""
    scales = None if fmt is None else fmt.initial_scales()
    return torch.empty(0) if scales is None else scales

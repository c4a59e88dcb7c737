"""The weight of a layer as it is multiplied: rounded, masked, kept while nothing trains it."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_adls.layers.coded_weight import CodedWeight, RowOrder
from lightning_adls.layers.kept import KeptWeight
from lightning_adls.layers.rounding import Rounding


class RoundedWeight(Rounding):
    """A layer whose weight is rounded along what an output sums over.

    Attributes:
        weight_mask: Bool, in the shape of the weight, true where a weight is kept; or None.
    """

    weight: Tensor
    weight_mask: Tensor | None
    _kept: KeptWeight | None
    _coded: bool

    def to_rows(self, weight: Tensor) -> Tensor:
        """The weight as a matrix, each row of which is what one output sums over."""
        return weight.flatten(1)

    def row_order(self) -> RowOrder:
        """How what :meth:`to_rows` made becomes the weight again."""
        shape = tuple(self._weight().shape)
        return RowOrder(shape, tuple(range(len(shape))), shape)

    def from_rows(self, rows: Tensor) -> Tensor:
        """What :meth:`to_rows` made, in the shape of the weight."""
        return self.row_order()(rows)

    def rounded_weight(self) -> Tensor:
        """The weight as it is multiplied: rounded, then masked."""
        if self.formats.weight is None and self.weight_mask is None:
            return self._weight()
        if torch.compiler.is_compiling() or self._coded:
            return self._round_weight()
        tensors = (self._weight(), self.weight_mask, self.scales_of("weight"), self.weight_fitted)
        parts = [part for part in tensors if part is not None]
        if not self._may_keep(parts):
            self._kept = None
            return self._round_weight()
        # An inference tensor cannot serve a later forward with gradients: keep the two apart.
        inference = torch.is_inference_mode_enabled()
        settings = (self.formats, self.enabled, inference)
        kept = self._kept
        if kept is None or not kept.is_made_of(parts, settings):
            kept = KeptWeight(self._round_weight(), parts, settings, by_value=self.training)
            self._kept = kept
        return kept.weight

    def _may_keep(self, parts: Sequence[Tensor]) -> bool:
        """Whether nothing trains what the rounded weight is made of, and all writes are seen."""
        if any(part.is_inference() for part in parts):  # these count no versions
            return False
        trained = any(part.requires_grad for part in parts)
        if not self.training:
            # Fused optimisers count no versions, and their step may come after gradients.
            return not (torch.is_grad_enabled() and trained)
        # A frozen weight is compared by value: teachers that follow a student are often written
        # through `weight.data`. Elsewhere than on the CPU the comparison would wait.
        fmt = self.formats.weight
        return (
            not trained
            and self._weight().device.type == "cpu"
            and not (fmt is not None and fmt.rounds_at_random)
        )

    def keep_codes(self, weight: nn.Parameter) -> None:
        """Take a :class:`CodedWeight` as parameter, which is decoded where it is multiplied.

        One in the codes of another format than the layer's is rounded like any weight.
        """
        self._parameters[self.weight_name] = weight
        self._look_whether_coded()

    def _look_whether_coded(self) -> None:
        """Note it, because compilers cannot ask a weight for its format."""
        weight: Any = self._parameters.get(self.weight_name)
        self._coded = isinstance(weight, CodedWeight) and weight.format == self.formats.weight

    def _round_weight(self) -> Tensor:
        weight = self._weight()
        if self._coded:
            # Any operator decodes it, and this one does nothing else.
            weight = weight.view(weight.shape)
        elif self.formats.weight is not None:
            rows = self.to_rows(weight)
            rounded = self._round("weight", rows)
            weight = rounded if rows is weight else self.from_rows(rounded)
        if self.weight_mask is not None:
            weight = weight.masked_fill(~self.weight_mask, 0.0)
        return weight

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, forget the rounded weight and look which scales are fitted."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to`, `half` and the like: what is kept must not stay behind on the old device.
        self._kept = None
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles round anew: what is kept belongs to this layer's tensors.
        return {**self.__dict__, "_kept": None}

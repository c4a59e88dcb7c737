"""A weight in the codes of any number format."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from lightning_adls.formats import NumberFormat
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.layers.stored_weight import StoredWeight


@dataclass(frozen=True)
class RowOrder:
    """How a matrix of rows becomes the weight that it was made from.

    Args:
        view: Shape that the matrix is seen in.
        order: Of these dimensions.
        shape: Of the weight.
    """

    view: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, rows: Tensor) -> Tensor:
        """The weight; a view of the rows where that is possible."""
        return rows.view(self.view).permute(self.order).reshape(self.shape)


class CodedWeight(StoredWeight):
    """A weight in the codes of a number format, decoded by whatever computes with it.

    Args:
        coded: The matrix of rows that the layer sums over.
        order: How its values become the weight.
        keeps: Whether what was decoded is kept, as it is for copies that are made later.

    Raises:
        ValueError: If other values are written into it.

    Example:
        >>> from lightning_adls.formats import parse
        >>> from lightning_adls.kernels.encoding import encode
        >>> coded = encode(parse("Integer(width=3, frac_width=1)"), torch.tensor([[0.5, -9.0]]))
        >>> weight = CodedWeight(coded, RowOrder((1, 2), (0, 1), (1, 2)))
        >>> weight.shape, weight.nbytes, weight * 2
        (torch.Size([1, 2]), 1, tensor([[ 1., -4.]]))
    """

    coded: Coded
    order: RowOrder
    keeps: bool
    _kept: Tensor | None

    @staticmethod
    def __new__(cls, coded: Coded, order: RowOrder, keeps: bool = False) -> "CodedWeight":
        weight = Tensor._make_wrapper_subclass(
            cls, order.shape, dtype=coded.shapes.dtype, device=coded.codes.device
        )
        weight.coded, weight.order, weight.keeps, weight._kept = coded, order, keeps, None
        return weight

    @property
    def format(self) -> NumberFormat:
        """Whose codes these are."""
        return self.coded.shapes.format

    def unpacked(self) -> Tensor:
        """The values: decoded anew, or kept from the first time."""
        if not self.keeps or torch.compiler.is_compiling():
            return self.order(self.coded.decode())
        if self._kept is None:
            # An inference tensor could not serve a later forward with gradients.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = self.order(self.coded.decode())
        return self._kept

    def stored(self) -> dict[str, Tensor]:
        """The codes, what they share and the mask, where there are such."""
        return self.coded.parts()

    def restored(self, parts: dict[str, Tensor], dtype: torch.dtype) -> Self:
        """A weight of other codes of the same format and size."""
        return type(self)(self.coded.with_parts(parts, dtype), self.order, self.keeps)

    def is_but_for_rounding(self, values: Tensor) -> bool:
        """Whether these are the values, but for the last bits of their data type."""
        own, resolution = self.unpacked(), torch.finfo(self.dtype).resolution
        return torch.allclose(values.to(own), own, rtol=10 * resolution, atol=0.0)

    def is_stored_like(self, other: StoredWeight) -> bool:
        """Whether ``other`` has codes of the same format and number."""
        if not isinstance(other, CodedWeight):
            return False
        mine, theirs = self.coded.shapes, other.coded.shapes
        return self.order == other.order and replace(mine, dtype=theirs.dtype) == theirs

    def copy_stored(self, other: StoredWeight, *args: Any) -> None:
        """Copy codes, and forget what was decoded of the old ones."""
        super().copy_stored(other, *args)
        self._kept = None

    # What `torch.compile` takes a tensor of tensors apart by, and puts it together again.

    def __tensor_flatten__(self) -> tuple[list[str], tuple[CodedShapes, RowOrder, bool]]:
        return list(self.stored()), (self.coded.shapes, self.order, self.keeps)

    def __getattr__(self, name: str) -> Tensor:
        # The parts, by the names that `__tensor_flatten__` gives.
        if name in ("codes", "shared", "mask"):
            part: Tensor = getattr(self.coded, name)
            return part
        raise AttributeError(name)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor],
        context: tuple[CodedShapes, RowOrder, bool],
        size: Any,
        stride: Any,
    ) -> "CodedWeight":
        shapes, order, keeps = context
        return CodedWeight(Coded(shapes, **inner), order, keeps)

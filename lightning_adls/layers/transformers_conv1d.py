"""The quantised form of Transformers' ``Conv1D``: imported for who has such a layer."""

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.layers.coded_weight import RowOrder
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer


class QuantizedTransformersConv1D(QuantizedLayer, Conv1D):  # type: ignore[misc]
    """The linear layer of GPT-2, which rounds; see :class:`QuantizedLayer`.

    Transformers calls it ``Conv1D``. Its weight has the shape ``(in, out)``, so that an output
    sums over a column: blocks run along the first dimension.

    Args:
        nf: Features of the output.
        nx: Features of the input.
        formats: What each tensor is rounded to.
        device: Where the parameters lie.
        dtype: Of the parameters.

    Example:
        >>> from lightning_adls.formats import MXInt
        >>> layer = QuantizedTransformersConv1D(8, 32, formats=LayerFormats(weight=MXInt()))
        >>> layer(torch.ones(3, 32)).shape
        torch.Size([3, 8])
    """

    # Not "Conv1D", which only a capital letter would tell from a convolution.
    kind: ClassVar[str] = "TransformersConv1D"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (Conv1D,)
    input_names: ClassVar[tuple[str, ...]] = ("x",)

    def __init__(
        self,
        nf: int,
        nx: int,
        *,
        formats: LayerFormats,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # The plain layer takes neither device nor dtype.
        with nullcontext() if device is None else torch.device(device):
            Conv1D.__init__(self, nf, nx)
        if dtype is not None:
            self.to(dtype)
        self._add_formats(formats)

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of ``layer``."""
        return {"nf": layer.nf, "nx": layer.nx}

    def to_rows(self, weight: Tensor) -> Tensor:
        """The weight as a matrix of shape ``(nf, nx)``."""
        return weight.T

    def row_order(self) -> RowOrder:
        """How a matrix of shape ``(nf, nx)`` becomes the weight, ``(nx, nf)``."""
        return RowOrder((self.nf, self.nx), (1, 0), (self.nx, self.nf))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., nx)``, giving ``(..., nf)``."""
        return nn.functional.linear(
            self.rounded_input(x), self.rounded_weight().T, self.rounded_bias()
        )

    # The plain one's has no place for formats.
    __repr__ = nn.Module.__repr__

    def extra_repr(self) -> str:
        """The arguments of the plain layer, then the formats."""
        return f"nf={self.nf}, nx={self.nx}, {self.formats}"

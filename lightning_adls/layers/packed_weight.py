"""A weight in MXINT8 that is a tensor to all who ask for its shape, dtype, device or values."""

from typing import Any, Self

import torch
from torch import Tensor

from lightning_adls.kernels import dequantize, same_codes
from lightning_adls.layers.stored_weight import StoredWeight


class PackedWeight(StoredWeight):
    """A weight in MXINT8, which is unpacked by whatever computes with it; see `StoredWeight`.

    Args:
        codes: int8, shape ``(out_features, in_features)``.
        exponents: uint8, as :func:`lightning_adls.kernels.quantize` returns them.
        dtype: Of the unpacked values.

    Raises:
        ValueError: If other values are written into it.

    Example:
        >>> from lightning_adls.kernels import quantize
        >>> weight = PackedWeight(*quantize(torch.tensor([[1.0, -0.5, 0.0]])), torch.float32)
        >>> weight.shape, weight.dtype, weight.nbytes
        (torch.Size([1, 3]), torch.float32, 4)
        >>> weight * 2
        tensor([[ 2., -1.,  0.]])
    """

    codes: Tensor
    exponents: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> "PackedWeight":
        weight = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=dtype, device=codes.device)
        weight.codes, weight.exponents = codes, exponents
        return weight

    def unpacked(self) -> Tensor:
        """The values."""
        return dequantize(self.codes, self.exponents, self.dtype)

    def stored(self) -> dict[str, Tensor]:
        """The codes and the exponents."""
        return {"codes": self.codes, "exponents": self.exponents}

    def restored(self, parts: dict[str, Tensor], dtype: torch.dtype) -> Self:
        """A weight of other codes and exponents."""
        return type(self)(parts["codes"], parts["exponents"], dtype)

    def is_but_for_rounding(self, values: Tensor) -> bool:
        """Whether these values have the same codes."""
        return same_codes(values, self.codes, self.exponents)

    # What `torch.compile` takes a tensor of tensors apart by, and puts it together again.

    def __tensor_flatten__(self) -> tuple[list[str], torch.dtype]:
        return ["codes", "exponents"], self.dtype

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor],
        dtype: torch.dtype,
        size: Any,
        stride: Any,
    ) -> "PackedWeight":
        return PackedWeight(inner["codes"], inner["exponents"], dtype)

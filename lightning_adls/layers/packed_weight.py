"""A packed weight that is a tensor to all who ask for its shape, dtype, device or values."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lightning_adls.errors import InputValueError
from lightning_adls.kernels import dequantize, same_codes

_aten = torch.ops.aten


class PackedWeight(Tensor):
    """A weight in MXINT8, which is unpacked by whatever computes with it.

    Copying, moving and converting it keeps it packed, of its bytes and not of its size. It is
    constant: another packed weight can be copied into it, and an average over copies of it can be
    written, which it equals but for rounding.

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

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """What it takes in memory."""
        return self.codes.nbytes + self.exponents.nbytes

    def unpacked(self) -> Tensor:
        """The values."""
        return dequantize(self.codes, self.exponents, self.dtype)

    @property
    def data(self) -> Tensor:
        """The weight without its history of gradients, packed as well."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        _copy_into(self, value)  # torch would exchange what is seen and not what is packed

    def numpy(self, *, force: bool = False) -> Any:
        """The values."""
        return self.unpacked().numpy(force=force)

    def tolist(self) -> Any:
        """The values."""
        return self.unpacked().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"PackedWeight(shape={tuple(self.shape)}, dtype={self.dtype})"

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

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if (kept := _KEPT.get(func)) is not None:
            return kept(*args, **kwargs)
        values = tree_map_only(PackedWeight, PackedWeight.unpacked, (args, kwargs))
        result = func(*values[0], **values[1])
        for argument, old, new in zip(func._schema.arguments, args, values[0], strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                _write(old, new)
                result = old if isinstance(old, PackedWeight) else result
        return result


def _write(old: Any, new: Any) -> None:
    """Take over what an operator has written, into one tensor or a list of them."""
    if isinstance(old, list | tuple):
        for each, value in zip(old, new, strict=True):
            _write(each, value)
    elif isinstance(old, PackedWeight) and not same_codes(new, old.codes, old.exponents):
        raise InputValueError(
            f"PackedWeight: weight of shape {tuple(old.shape)} is packed and cannot be written; "
            "change the model before packing it."
        )


def _copy(
    weight: PackedWeight, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> PackedWeight:
    codes, exponents = (part.to(device, copy=True) for part in (weight.codes, weight.exponents))
    return PackedWeight(codes, exponents, dtype or weight.dtype)


def _copy_into(weight: Any, source: Tensor, *args: Any) -> Any:
    if not isinstance(source, PackedWeight):
        _write(weight, source.expand(weight.shape))
    elif isinstance(weight, PackedWeight):
        weight.codes.copy_(source.codes, *args)
        weight.exponents.copy_(source.exponents, *args)
    else:
        weight.copy_(source.unpacked(), *args)
    return weight


_KEPT: dict[Any, Any] = {
    _aten.detach.default: lambda w: PackedWeight(w.codes, w.exponents, w.dtype),
    _aten.alias.default: lambda w: PackedWeight(w.codes, w.exponents, w.dtype),
    _aten.clone.default: _copy,
    _aten._to_copy.default: _copy,
    _aten.copy_.default: _copy_into,
}

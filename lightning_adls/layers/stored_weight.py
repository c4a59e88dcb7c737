"""A weight that is kept in fewer bytes and is a tensor to all who ask for its shape or values."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lightning_adls.errors import InputValueError

_aten = torch.ops.aten


class StoredWeight(Tensor):
    """A constant weight, which is unpacked by whatever computes with it.

    Copying, moving and converting it keeps it as it is stored, of its bytes and not of its size.
    Another one of its kind can be copied into it, and an average over copies of it can be written,
    which it equals but for rounding.

    Raises:
        ValueError: If other values are written into it.
    """

    @abstractmethod
    def unpacked(self) -> Tensor:
        """The values."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """What is stored, by name."""

    @abstractmethod
    def restored(self, parts: dict[str, Tensor], dtype: torch.dtype) -> Self:
        """A weight of the same kind that stores other tensors, unpacked to ``dtype``."""

    @abstractmethod
    def is_but_for_rounding(self, values: Tensor) -> bool:
        """Whether these values would be stored as this weight is."""

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """What it takes in memory."""
        return sum(part.nbytes for part in self.stored().values())

    def is_stored_like(self, other: "StoredWeight") -> bool:
        """Whether what ``other`` stores can be copied part by part."""
        mine, theirs = self.stored(), other.stored()
        same = [name in theirs and theirs[name].shape == mine[name].shape for name in mine]
        return type(self) is type(other) and len(mine) == len(theirs) and all(same)

    def copy_stored(self, other: "StoredWeight", *args: Any) -> None:
        """Copy what one like this stores, with the further arguments of ``Tensor.copy_``."""
        for mine, theirs in zip(self.stored().values(), other.stored().values(), strict=True):
            mine.copy_(theirs, *args)

    @property
    def data(self) -> Tensor:
        """The weight without its history of gradients, stored as it is."""
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
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if (kept := _KEPT.get(func)) is not None:
            return kept(*args, **kwargs)
        writes = func._schema.is_mutable  # which must not be into what a weight keeps
        values = tree_map_only(
            StoredWeight, lambda w: w.unpacked().clone() if writes else w.unpacked(), (args, kwargs)
        )
        result = func(*values[0], **values[1])
        for argument, old, new in zip(func._schema.arguments, args, values[0], strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                _write(old, new)
                result = old if isinstance(old, StoredWeight) else result
        return result


def stored_weight_of(layer: nn.Module) -> StoredWeight | None:
    """The weight of a quantised layer if it is a :class:`StoredWeight`."""
    weight: Any = layer._parameters.get(getattr(layer, "weight_name", ""))
    return weight if isinstance(weight, StoredWeight) else None


def is_stored(layer: nn.Module) -> bool:
    """Whether ``layer`` is a quantised layer whose weight is a :class:`StoredWeight`."""
    return stored_weight_of(layer) is not None


def _write(old: Any, new: Any) -> None:
    """Take over what an operator has written, into one tensor or a list of them."""
    if isinstance(old, list | tuple):
        for each, value in zip(old, new, strict=True):
            _write(each, value)
    elif isinstance(old, StoredWeight) and not old.is_but_for_rounding(new):
        raise InputValueError(
            f"{type(old).__name__}: weight of shape {tuple(old.shape)} is packed and cannot be "
            "written; change the model before packing it."
        )


def _alias(weight: StoredWeight) -> StoredWeight:
    return weight.restored(weight.stored(), weight.dtype)


def _copy(
    weight: StoredWeight, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> StoredWeight:
    parts = {name: part.to(device, copy=True) for name, part in weight.stored().items()}
    return weight.restored(parts, dtype or weight.dtype)


def _copy_into(weight: Any, source: Tensor, *args: Any) -> Any:
    if not isinstance(source, StoredWeight):
        _write(weight, source.expand(weight.shape))
    elif not isinstance(weight, StoredWeight):
        weight.copy_(source.unpacked(), *args)
    elif weight.is_stored_like(source):
        weight.copy_stored(source, *args)
    else:
        _write(weight, source.unpacked())
    return weight


_KEPT: dict[Any, Any] = {
    _aten.detach.default: _alias,
    _aten.alias.default: _alias,
    _aten.clone.default: _copy,
    _aten._to_copy.default: _copy,
    _aten.copy_.default: _copy_into,
}

"""The rounded weight that a layer keeps while nothing trains it, and what it was made of."""

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef


class KeptWeight:
    """A rounded weight that stays right as long as what it was made of stays the same.

    Tensors are held weakly and compared with ``is``: the address of one that is gone is handed out
    again, to a tensor whose count of versions starts at the same 0. Their memory is compared as
    well, because assigning ``tensor.data`` exchanges it without counting a version.

    Args:
        weight: What is kept.
        tensors: What decides it.
        settings: What decides it besides; compared with ``==``.
        by_value: Whether values are compared too, with copies of the tensors. That sees every
            write, also those for which torch counts no version, and waits for the device.
    """

    def __init__(
        self, weight: Tensor, tensors: Sequence[Tensor], settings: Any, by_value: bool
    ) -> None:
        self.weight = weight
        self._seen = [_Seen(tensor, by_value) for tensor in tensors]
        self._settings = settings

    def is_made_of(self, tensors: Sequence[Tensor], settings: Any) -> bool:
        """Whether these are what the weight was made of, unchanged."""
        return (
            self._settings == settings
            and len(self._seen) == len(tensors)
            and all(seen.is_still(now) for seen, now in zip(self._seen, tensors, strict=True))
        )


class _Seen:
    """A tensor as it was: the object, its memory and how often it had been written to."""

    def __init__(self, tensor: Tensor, by_value: bool) -> None:
        self._values = tensor.detach().clone() if by_value else None
        self._tensor = TensorWeakRef(tensor)
        self._memory = ref(tensor.untyped_storage())
        self._version = tensor._version

    def is_still(self, tensor: Tensor) -> bool:
        return (
            self._tensor() is tensor
            and self._memory() is tensor.untyped_storage()
            and self._version == tensor._version
            and (self._values is None or torch.equal(self._values, tensor))
        )

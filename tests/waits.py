"""Notices what waits for the device: values read on the host, and shapes that depend on them.

On the CPU, where such a read costs nothing and would go unnoticed.
"""

import os
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount),
    *(aten.repeat_interleave, aten.allclose),
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
TORCH = f"{Path(torch.__file__).parent}{os.sep}"
HOST = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


def _where() -> str:
    """The innermost lines of Python that are not of this file, nor of torch."""
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if frame.filename != __file__ and not frame.filename.startswith(TORCH)
    ]
    return " < ".join(reversed(frames[-3:]))


class Dispatched(TorchDispatchMode):
    """What reads values, or lets shapes depend on them."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        packet = func.overloadpacket
        masks = packet in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
        if packet in READS or masks:
            self.found.append(f"{func} at {_where()}")
        return func(*args, **(kwargs or {}))


class Asked(TorchFunctionMode):
    """What brings values to the host without dispatching anything, if they are there already."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in HOST:
            self.found.append(f"{func.__name__} at {_where()}")
        return func(*args, **(kwargs or {}))


class Waits:
    """Within it, ``found`` is what would have waited for a device."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = (Dispatched(self.found), Asked(self.found))

    def __enter__(self) -> list[str]:
        for mode in self._modes:
            mode.__enter__()
        return self.found

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

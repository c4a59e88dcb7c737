"""The kernels of ``encode.cpp``, for float32 matrices and for codes on the CPU."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from lightning_adls.kernels.compiled import Kernels

WORTH_IT = 1 << 16
"""Elements of a matrix from which on a call of the kernels is worth it."""


def _declare(library: ctypes.CDLL) -> None:
    pointer, size, whole = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    takes: dict[str, tuple[Any, list[Any]]] = {
        "encode_by_table": (
            ctypes.c_bool,
            [pointer, size, size, pointer, size, size, pointer, whole, pointer, whole],
        ),
        "encode_by_steps": (
            ctypes.c_bool,
            [pointer, size, size, pointer, size, ctypes.c_bool, pointer, whole, pointer, whole],
        ),
        "largest_of_blocks": (None, [pointer, size, size, size, pointer, whole]),
        "pack_codes": (None, [pointer, size, whole, whole, pointer]),
    }
    for name, (result, arguments) in takes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


KERNELS = Kernels("encode", ("avx2",), "weights are encoded", _declare)


def are_worth_it(x: Tensor) -> bool:
    """Whether the kernels take a tensor of this size and device, and pay."""
    return x.device.type == "cpu" and x.numel() >= WORTH_IT and KERNELS.pay(x.numel())


def by_table(
    x: Tensor, divisors: Tensor, tile: tuple[int, int], table: Tensor, width: int, out: Tensor
) -> bool:
    """Write codes of elements divided by what their block shares, packed.

    Args:
        x: Float32, shape ``(rows, columns)``, contiguous.
        divisors: Float32, positive, contiguous, shape ``(rows / tall, columns / wide)``, rounded
            up.
        tile: Rows and columns of a block, ``(tall, wide)``.
        table: Entries of a :class:`~lightning_adls.kernels.code_table.CodeTable`.
        width: Bits that a code is given, 1 to 8.
        out: uint8, shape ``(packed_bytes(x.numel(), width),)``.

    Returns:
        Whether ``x`` holds a NaN, of which there is no code.
    """
    nan: bool = KERNELS.functions.encode_by_table(
        *(x.data_ptr(), x.numel(), x.shape[1], divisors.data_ptr(), *tile),
        *(table.data_ptr(), width, out.data_ptr(), torch.get_num_threads()),
    )
    return nan


def by_steps(x: Tensor, at: Tensor, codes: tuple[int, ...], width: int, out: Tensor) -> bool:
    """Write codes of :class:`~lightning_adls.formats.steps.Steps`; else as :func:`by_table`.

    Args:
        x: As above.
        at: Float32, contiguous, shape ``(steps,)`` or ``(rows, steps)``.
        codes: One more than steps.
        width: As above.
        out: As above.
    """
    nan: bool = KERNELS.functions.encode_by_steps(
        *(x.data_ptr(), x.numel(), x.shape[1], at.data_ptr(), at.shape[-1], at.ndim > 1),
        *(bytes(codes), width, out.data_ptr(), torch.get_num_threads()),
    )
    return nan


def largest_of_blocks(x: Tensor, size: int) -> Tensor:
    """Largest finite magnitudes of blocks along rows.

    Args:
        x: Float32, shape ``(rows, columns)``, contiguous.
        size: Elements of a block; the last of a row may have fewer.

    Returns:
        Float32, shape ``(rows, columns / size)``, rounded up.
    """
    rows, columns = x.shape
    out = x.new_empty(rows, -(-columns // size))
    KERNELS.functions.largest_of_blocks(
        x.data_ptr(), rows, columns, size, out.data_ptr(), torch.get_num_threads()
    )
    return out


def pack(codes: Tensor, width: int, out: Tensor) -> None:
    """Write codes as :func:`~lightning_adls.kernels.bits.pack_bits` does.

    Args:
        codes: uint8 or bool if ``width`` is at most 8, int32 or int64; contiguous.
        width: Bits of a code, 1 to 32.
        out: uint8, shape ``(packed_bytes(codes.numel(), width),)``.
    """
    KERNELS.functions.pack_codes(
        codes.data_ptr(), codes.numel(), codes.itemsize, width, out.data_ptr()
    )

"""Decoding by a Triton kernel: one read of the codes, one write of the values.

Imported only when it is used, and without an error where there is no Triton, which comes with the
CUDA builds of torch alone.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_adls.errors import MissingPackageError
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import tile
from lightning_adls.kernels.bits import unpack_few
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.lookup import Lookup

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:
    triton, constexpr = None, Any

_ELEMENTS = 1024  # that a program decodes, a multiple of 8: eight for each thread of four warps


# Without types: Triton looks up those of the arguments, too, among what a kernel may use.
def _decode_kernel(  # type: ignore[no-untyped-def]
    codes, size, table, factors, shared, shared_size, mask, starts, values, elements, columns,
    limit,
    WIDTH: constexpr, TABLES: constexpr, SHARED: constexpr, TILE_ROWS: constexpr,
    TILE_COLUMNS: constexpr, MASKED: constexpr, LARGE: constexpr, ELEMENTS: constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if LARGE:  # what 32 bits cannot count, and what is slower
        program = program.to(tl.int64)
    element = program * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = element < elements
    index = element
    kept = inside
    if MASKED:
        byte = tl.load(mask + (element >> 3), mask=inside, other=0).to(tl.int32)
        bit = (byte >> (element & 7).to(tl.int32)) & 1
        kept = inside & (bit == 1)
        # Codes before the program, and within it before the element.
        index = tl.load(starts + program) + tl.cumsum(bit) - bit
    # A code of WIDTH bits lies in so many bytes, the lowest bit first.
    place = index * WIDTH
    byte = place >> 3
    word = tl.load(codes + byte, mask=kept & (byte < size), other=0).to(tl.int32)
    if 8 % WIDTH != 0:
        after = tl.load(codes + byte + 1, mask=kept & (byte + 1 < size), other=0).to(tl.int32)
        word |= after << 8
    if (WIDTH > 9) & (WIDTH != 16):
        last = tl.load(codes + byte + 2, mask=kept & (byte + 2 < size), other=0).to(tl.int32)
        word |= last << 16
    entry = (word >> (place & 7).to(tl.int32)) & ((1 << WIDTH) - 1)
    row = element // columns
    if TABLES:
        entry = entry + row * (1 << WIDTH)
    value = tl.load(table + entry, mask=kept, other=0.0)
    if SHARED > 0:
        column = element - row * columns
        across = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
        place = ((row // TILE_ROWS) * across + column // TILE_COLUMNS) * SHARED
        byte = place >> 3
        word = tl.load(shared + byte, mask=inside & (byte < shared_size), other=0).to(tl.int32)
        if 8 % SHARED != 0:
            there = inside & (byte + 1 < shared_size)
            word |= tl.load(shared + byte + 1, mask=there, other=0).to(tl.int32) << 8
        of_block = (word >> (place & 7).to(tl.int32)) & ((1 << SHARED) - 1)
        value *= tl.load(factors + of_block, mask=inside, other=0.0)
    if (SHARED > 0) | (values.dtype.element_ty != tl.float32):
        value = tl.clamp(value, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    if values.dtype.element_ty == tl.bfloat16:
        # To the nearest, ties to even, of the bits: in Triton's interpreter a cast is wrong where
        # the result is subnormal.
        bits = value.to(tl.int32, bitcast=True)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        # Added to, the NaN of a GPU, all ones, would become a zero.
        rounded = tl.where(value == value, rounded, 0x7FC00000)
        half = (rounded >> 16).to(tl.int16)
        tl.store(values + element, half.to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(values + element, value.to(values.dtype.element_ty), mask=inside)


_compiled_kernel: Any = None if triton is None else triton.jit(_decode_kernel)


def decode_triton(
    shapes: CodedShapes,
    lookup: Lookup,
    codes: Tensor,
    shared: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The values of a matrix in codes; takes and returns what ``decode_torch`` does.

    On the device of the codes, which is CUDA, or the CPU in Triton's interpreter.

    Raises:
        ImportError: If Triton is not installed.
    """
    if triton is None:
        raise MissingPackageError(
            f"decode: codes.device={codes.device} needs Triton, which is not installed; "
            "`pip install triton`, or move the model to the CPU."
        )
    values = torch.empty(shapes.shape, dtype=shapes.dtype, device=codes.device)
    elements, fmt = values.numel(), shapes.format
    if not elements:
        return values
    scaled, sizes = lookup.factors is not None, (1, 1)
    if scaled:
        assert isinstance(fmt, BlockFormat)
        sizes = tile(shapes.shape, fmt.block_size)
    _compiled_kernel[triton.cdiv(elements, _ELEMENTS),](
        codes.contiguous(),
        codes.numel(),
        lookup.codes.contiguous(),
        lookup.factors,
        shared.contiguous() if scaled and shared is not None else None,
        shared.numel() if scaled and shared is not None else 0,
        None if mask is None else mask.contiguous(),
        None if mask is None else _starts(mask, elements),
        values,
        elements,
        shapes.shape[1],
        torch.finfo(shapes.dtype).max,
        WIDTH=fmt.code_bits,
        TABLES=len(lookup.codes) > 1,
        SHARED=fmt.shared_bits if isinstance(fmt, BlockFormat) else 0,
        TILE_ROWS=sizes[0],
        TILE_COLUMNS=sizes[1],
        MASKED=mask is not None,
        LARGE=elements * 2**4 >= 2**31 or lookup.codes.numel() >= 2**31,  # of at most 16 bits
        ELEMENTS=_ELEMENTS,
    )
    return values


def _starts(mask: Tensor, elements: int) -> Tensor:
    """How many elements before those of each program have a code, int64."""
    bits = unpack_few(mask, 1, elements)
    padded = torch.nn.functional.pad(bits, (0, -elements % _ELEMENTS)).view(-1, _ELEMENTS)
    counts = padded.sum(1, dtype=torch.int64)
    return counts.cumsum(0) - counts

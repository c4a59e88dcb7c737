"""Tensors as blocks of elements that share something."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adls.formats.floats import finite_magnitude, layout
from lightning_adls.formats.without_bits import are_bits_unknown

BlockSize = int | tuple[int, int]
WHOLE = -1  # the size of a block that takes in a whole dimension


def tile(shape: Sequence[int], block_size: BlockSize) -> tuple[int, int]:
    """Rows and columns of the blocks of a tensor of this shape."""
    sizes = block_size if isinstance(block_size, tuple) else (1, block_size)
    whole = (1, 1, *shape)[-2:]
    # An empty dimension has no blocks, whatever their size.
    rows, columns = (max(n, 1) if s == WHOLE else s for s, n in zip(sizes, whole, strict=True))
    return rows, columns


def split(x: Tensor, block_size: BlockSize) -> Tensor:
    """View ``x`` as blocks, with zeros where the last blocks are shorter.

    Args:
        x: Shape ``(..., rows, columns)``; fewer than two dimensions count as one row.
        block_size: Elements per block along the last dimension, or (rows, columns) of a tile; -1
            is a whole dimension.

    Returns:
        Shape ``(..., tiles down, rows of a tile, tiles across, columns of a tile)``.
    """
    rows, columns = tile(x.shape, block_size)
    x = x.reshape((1,) * (2 - x.ndim) + x.shape)
    down, across = -x.shape[-2] % rows, -x.shape[-1] % columns
    if down or across:
        x = torch.nn.functional.pad(x, (0, across, 0, down))
    shape = (x.shape[-2] // rows, rows, x.shape[-1] // columns, columns)
    return x.reshape(*x.shape[:-2], *shape)


def merge(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Undo ``split`` for a tensor of this shape."""
    rows, columns = (1, 1, *shape)[-2:]
    flat = blocks.flatten(-2).flatten(-3, -2)
    if _becomes_cpp(flat):
        flat = flat.as_strided(flat.shape, flat.stride())
    return flat[..., :rows, :columns].reshape(shape)


def _becomes_cpp(x: Tensor) -> bool:
    """Whether inductor may make loops in C++ of what is traced.

    There an element finds what its block shares by its place divided by the block's size. To save
    the division inductor cuts the loop into whole blocks, and forgets the elements after the last
    of them: https://github.com/pytorch/pytorch/issues/195582. Where the blocks are a tensor in
    memory, which ``as_strided`` makes them, nothing is divided.
    """
    compiles = torch.compiler.is_compiling() and not are_bits_unknown()
    return compiles and x.device.type == "cpu"


def block_count(shape: torch.Size, block_size: BlockSize) -> int:
    """Number of blocks that a tensor of this shape is split into, rounded up per row."""
    return split(torch.empty(shape, device="meta"), block_size)[..., 0, :, 0].numel()


def block_max(blocks: Tensor) -> Tensor:
    """Largest finite magnitude of each block, its dimensions kept with size 1."""
    if torch.compiler.is_compiling():
        return _amax(finite_magnitude(blocks)[0])
    digits, _, integer = layout(blocks.dtype)
    # Doubling loses the sign. Added to that, this makes infinity and NaN, whose bits are the
    # largest, overflow to the smallest integers, below what becomes of zero. Integers because eager
    # torch is slow at the maximum of few floats.
    zero = torch.iinfo(integer).min + (1 << (digits + 1))
    least = blocks.new_full((), zero, dtype=integer)
    largest = _amax(torch.add(least, blocks.view(integer), alpha=2)).clamp_(min=zero)
    return ((largest - zero) >> 1).bitwise_and_(torch.iinfo(integer).max).view(blocks.dtype)


def _amax(magnitude: Tensor) -> Tensor:
    if magnitude.shape[-3] > 1:
        magnitude = magnitude.amax(-3, keepdim=True)
    return magnitude.amax(-1, keepdim=True)

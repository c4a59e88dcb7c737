"""What a matrix in codes looks like, told without its values."""

import math
from dataclasses import dataclass

import torch

from lightning_adls.formats import NumberFormat
from lightning_adls.formats.base import PART
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_count
from lightning_adls.kernels.bits import packed_bytes


@dataclass(frozen=True)
class CodedShapes:
    """What the parts of a :class:`Coded` matrix look like, told without its values.

    Args:
        format: Of the elements.
        shape: Rows and columns.
        dtype: Of the values.
        kept: How many elements have a code, where the others are zeros that a mask tells of; None
            if all have one.
    """

    format: NumberFormat
    shape: tuple[int, int]
    dtype: torch.dtype
    kept: int | None = None

    @property
    def code_count(self) -> int:
        """Elements that have a code."""
        return math.prod(self.shape) if self.kept is None else self.kept

    @property
    def shared_count(self) -> int:
        """Shared codes, of a format whose elements share codes; else 0."""
        if isinstance(self.format, BlockFormat):
            return block_count(torch.Size(self.shape), self.format.block_size)
        return 0

    def parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of each part that there is: ``codes``, ``shared``, ``mask``."""
        parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        size = packed_bytes(self.code_count, self.format.code_bits)
        parts["codes"] = torch.uint8, (size,)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        if isinstance(self.format, BlockFormat):
            size = packed_bytes(self.shared_count, self.format.shared_bits)
            parts["shared"] = torch.uint8, (size,)
        elif (scales := self.format.scales_shape(self.shape[0])) is not None:
            parts["shared"] = wide, scales
        if self.kept is not None:
            parts["mask"] = torch.uint8, (packed_bytes(math.prod(self.shape), 1),)
        return parts


def shared_bits(fmt: NumberFormat) -> int:
    """Bits of a shared code of a format whose elements share codes and no scale.

    Raises:
        TypeError: If the format does not say.
    """
    if isinstance(fmt, BlockFormat):
        return fmt.shared_bits
    raise TypeError(f"{type(fmt).__name__} shares codes of a number of bits that is not known.")


def row_parts(rows: int, columns: int, device: torch.device, apart: bool) -> list[slice]:
    """Rows that are computed at once: few, on a CPU, where each can be computed by itself."""
    at_once = 8 * max(PART // max(8 * columns, 1), 1)  # so that the bits of a part fill bytes
    if not apart or device.type != "cpu" or rows <= at_once:
        return [slice(0, rows)]
    return [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]

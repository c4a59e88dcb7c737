"""What formats with a shared exponent have in common."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_adls.formats.base import NumberFormat
from lightning_adls.formats.blocks import WHOLE, BlockSize, block_count, block_max, merge, split
from lightning_adls.formats.checks import check_block_size
from lightning_adls.formats.floats import floor_log2, largest_integer, layout, power_of_two


@dataclass(frozen=True)
class BlockFormat(NumberFormat):
    """Elements times ``2**s``, where a block of them shares ``s``.

    A subclass says which scale belongs to a block's largest magnitude, and how elements that were
    divided by it are rounded and encoded. The scale is taken over finite elements.

    Args:
        block_size: Elements per block along the last dimension, or (rows, columns) of a tile over
            the last two; -1 is a whole dimension. The last blocks of a row are shorter where it
            does not divide evenly.
    """

    # Whether the scale is the largest magnitude's power of two times a constant, within limits,
    # and each element is rounded by itself, larger ones to no smaller numbers.
    scales_by_exponent: ClassVar[bool] = False

    block_size: BlockSize = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block_size(self, self.block_size)

    @property
    @abstractmethod
    def shared_bits(self) -> int:
        """Bits of one shared exponent."""

    @property
    @abstractmethod
    def shared_range(self) -> tuple[int, int]:
        """Smallest and largest ``s``; code 0 is the smallest."""

    @abstractmethod
    def scale(self, largest: Tensor) -> Tensor:
        """What the elements of a block of this largest magnitude are multiplied by, ``2**s``."""

    @abstractmethod
    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        """Round ``blocks``, out of place, to elements times ``scale``.

        Each element depends on its quotient by ``scale`` alone, and grows with it or stays.
        """

    @abstractmethod
    def largest_element(self, dtype: torch.dtype) -> float:
        """Largest element that ``round_blocks`` gives."""

    @abstractmethod
    def encode_element(self, x: Tensor) -> Tensor:
        """Codes of float64 elements that were rounded and divided by ``2**s``."""

    @abstractmethod
    def decode_element(self, codes: Tensor) -> Tensor:
        """The float64 elements that codes stand for."""

    def exponent(self, scale: Tensor) -> Tensor:
        """``s``, int64."""
        return floor_log2(scale)

    @property
    def rounds_rows_apart(self) -> bool:
        return not isinstance(self.block_size, tuple) or self.block_size[0] == 1

    @property
    def bits(self) -> float:
        sizes = self.block_size if isinstance(self.block_size, tuple) else (self.block_size,)
        if WHOLE in sizes:
            return float(self.code_bits)  # a dimension can be of any size
        return self.code_bits + self.shared_bits / math.prod(sizes)

    def storage_bits(self, shape: Sequence[int]) -> int:
        shared = block_count(torch.Size(shape), self.block_size) * self.shared_bits
        return super().storage_bits(shape) + shared

    def round(self, x: Tensor) -> Tensor:
        blocks = split(x, self.block_size)
        return merge(self.round_blocks(blocks, self.scale(block_max(blocks))), x.shape)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks = split(x, self.block_size)
        scale = self.scale(block_max(blocks))
        largest = merge((scale * self.largest_element(x.dtype)).expand(blocks.shape), x.shape)
        return -largest, largest

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.exponent(self.scale(block_max(split(x, self.block_size))))
        rounded = split(self.round(x).double(), self.block_size)
        codes = self.encode_element(rounded * power_of_two(-s, torch.float64))
        shared = (s - self.shared_range[0]).squeeze(-1).squeeze(-2)
        return merge(codes, x.shape), shared.squeeze(0) if x.ndim < 2 else shared

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        assert shared is not None
        blocks = split(codes, self.block_size)
        s = shared.reshape(*blocks.shape[:-3], 1, blocks.shape[-2], 1) + self.shared_range[0]
        values = self.decode_element(blocks) * power_of_two(s, torch.float64)
        return merge(values, codes.shape)


def round_to_steps(blocks: Tensor, scale: Tensor, width: int) -> Tensor:
    """Round to whole numbers of ``width`` bits, sign included, times ``scale * 2**(2 - width)``."""
    largest = largest_integer(width - 1, blocks.dtype)
    if width <= layout(blocks.dtype).digits:  # every step is a number of this dtype
        steps = scale * 2.0 ** (2 - width)
        return (blocks / steps).round_().clamp_(-largest, largest).mul_(steps)
    whole = (blocks / scale).mul_(2.0 ** (width - 2)).round_().clamp_(-largest, largest)
    return whole.mul_(2.0 ** (2 - width)).mul_(scale)

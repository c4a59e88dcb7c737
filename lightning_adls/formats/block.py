"""Blocks of small elements with a shared exponent, from the literature."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats.block_base import BlockFormat, round_to_steps
from lightning_adls.formats.checks import check_integer, check_mantissa
from lightning_adls.formats.codes import sign_and_magnitude, with_sign
from lightning_adls.formats.floats import floor_power, largest_integer, largest_value
from lightning_adls.formats.log import decode_power, encode_power, round_power, round_to_power
from lightning_adls.formats.minifloat import decode_minifloat, encode_minifloat, round_significand


@dataclass(frozen=True)
class BlockFP(BlockFormat):
    """Block floating point (MSFP, Rouhani et al. 2020, NeurIPS).

    A block shares ``e = floor(log2(largest)) + 1``; an element is a sign and ``M / 2**m * 2**e``
    with ``m = width - 1`` and ``M`` in ``0..2**m - 1``. Ties round to even ``M``.

    Args:
        width: Bits of an element, sign included, 2 to 32.
        exponent_width: Bits of the shared exponent, 1 to 8.
        exponent_bias: Subtracted from the shared exponent's code, -127 to 127; None is
            ``2**(exponent_width - 1) - 1``.
        block_size: Elements per block along the last dimension, or a tile (rows, columns); -1 is a
            whole dimension.

    Example:
        >>> import torch
        >>> BlockFP(width=4, block_size=2)(torch.tensor([1.0, 0.3, 40.0, 1.0]))
        tensor([ 1.0000,  0.2500, 40.0000,  0.0000])
    """

    scales_by_exponent = True

    width: int = 8
    exponent_width: int = 8
    exponent_bias: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 32, "for one bit use Binary")
        check_integer(self, "exponent_width", 1, 8, "float32 has 8 exponent bits")
        within = "beyond that the values leave the range of float32"
        check_integer(self, "exponent_bias", -127, 127, within, optional=True)

    @property
    def code_bits(self) -> int:
        return self.width

    @property
    def shared_bits(self) -> int:
        return self.exponent_width

    @property
    def shared_range(self) -> tuple[int, int]:
        standard = (1 << (self.exponent_width - 1)) - 1
        bias = standard if self.exponent_bias is None else self.exponent_bias
        return -bias, min((1 << self.exponent_width) - 1 - bias, 128)

    # Half of 2**s, and elements doubled for it: float32 has no 2**128.
    def scale(self, largest: Tensor) -> Tensor:
        lowest, highest = self.shared_range
        return floor_power(largest, lowest - 1, highest - 1)

    def exponent(self, scale: Tensor) -> Tensor:
        return super().exponent(scale) + 1

    def largest_element(self, dtype: torch.dtype) -> float:
        return largest_integer(self.width - 1, dtype) * 2.0 ** (2 - self.width)

    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        return round_to_steps(blocks, scale, self.width)

    def encode_element(self, x: Tensor) -> Tensor:
        return with_sign((x.abs() * 2.0 ** (self.width - 1)).long(), x, self.width)

    def decode_element(self, codes: Tensor) -> Tensor:
        sign, magnitude = sign_and_magnitude(codes, self.width)
        return (sign * magnitude).double().mul_(2.0 ** (1 - self.width))


@dataclass(frozen=True)
class BlockMinifloat(BlockFormat):
    """Minifloats whose bias is shared (Fox et al. 2021, ICLR).

    The bias puts the block's largest magnitude into the top binade, ``2**s`` to ``2**(s+1)`` with
    ``s = floor(log2(largest))``: elements are those of ``MinifloatIEEE`` with
    ``exponent_bias = 2**exponent_width - 1 - s``.

    Args:
        width: Bits of an element, 3 to 32.
        exponent_width: Exponent bits of an element, 1 to 8, at most ``width - 2``.
        exponent_bias_width: Bits of the shared exponent ``s``, 1 to 8; its smallest value is
            ``1 - 2**(exponent_bias_width - 1)``.
        block_size: Elements per block along the last dimension, or a tile (rows, columns); -1 is a
            whole dimension.

    Example:
        >>> import torch
        >>> BlockMinifloat(width=4, exponent_width=2)(torch.tensor([300.0, 100.0, 7.0]))
        tensor([256.,  96.,   0.])
    """

    scales_by_exponent = True

    width: int = 8
    exponent_width: int = 4
    exponent_bias_width: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 3, 32, "sign, exponent and mantissa take one bit each")
        check_integer(self, "exponent_width", 1, 8, "float32 has 8 exponent bits")
        check_mantissa(self, self.exponent_width, self.width)
        check_integer(self, "exponent_bias_width", 1, 8, "float32 has 8 exponent bits")

    @property
    def code_bits(self) -> int:
        return self.width

    @property
    def shared_bits(self) -> int:
        return self.exponent_bias_width

    @property
    def shared_range(self) -> tuple[int, int]:
        return _centred_range(self.exponent_bias_width, 127)

    @property
    def _grid(self) -> tuple[int, int]:
        """Mantissa bits, and the exponent of the smallest normal number below the top binade."""
        return self.width - 1 - self.exponent_width, 2 - (1 << self.exponent_width)

    def largest_element(self, dtype: torch.dtype) -> float:
        return largest_value(self._grid[0], 0, dtype)

    def scale(self, largest: Tensor) -> Tensor:
        return floor_power(largest, *self.shared_range)

    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        largest = self.largest_element(blocks.dtype)
        elements = round_significand(blocks / scale, *self._grid, largest, overwrite=True)
        return elements.mul_(scale)

    def encode_element(self, x: Tensor) -> Tensor:
        return encode_minifloat(x, *self._grid, self.width)

    def decode_element(self, codes: Tensor) -> Tensor:
        return decode_minifloat(codes, *self._grid, self.width)


@dataclass(frozen=True)
class BlockLog(BlockFormat):
    """Powers of two whose bias is shared: ``Log`` with the top code at the block's maximum.

    The top code is ``2**(s+1)`` with the shared exponent ``s = round(log2(largest)) - 1``.

    Args:
        width: Bits of an element, 2 to 32.
        exponent_bias_width: Bits of the shared exponent ``s``, 1 to 8; its smallest value is
            ``1 - 2**(exponent_bias_width - 1)``.
        block_size: Elements per block along the last dimension, or a tile (rows, columns); -1 is a
            whole dimension.

    Example:
        >>> import torch
        >>> BlockLog(width=3)(torch.tensor([300.0, 100.0, 50.0, 7.0]))
        tensor([256., 128.,  64.,   0.])
    """

    width: int = 8
    exponent_bias_width: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 32, "for one bit use Binary")
        check_integer(self, "exponent_bias_width", 1, 8, "float32 has 8 exponent bits")

    @property
    def code_bits(self) -> int:
        return self.width

    @property
    def shared_bits(self) -> int:
        return self.exponent_bias_width

    @property
    def shared_range(self) -> tuple[int, int]:
        return _centred_range(self.exponent_bias_width, 126)

    @property
    def _lowest(self) -> int:
        """Exponent of code 1, where the top code has exponent 1."""
        return 3 - (1 << (self.width - 1))

    def scale(self, largest: Tensor) -> Tensor:
        lowest, highest = self.shared_range
        return round_power(largest, lowest + 1, highest + 1) / 2

    def largest_element(self, dtype: torch.dtype) -> float:
        return 2.0

    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        return round_to_power(blocks / scale, self._lowest, 1, overwrite=True).mul_(scale)

    def encode_element(self, x: Tensor) -> Tensor:
        return encode_power(x, self._lowest, self.width)

    def decode_element(self, codes: Tensor) -> Tensor:
        return decode_power(codes, self._lowest, self.width)


def _centred_range(width: int, highest: int) -> tuple[int, int]:
    """Values of a shared exponent of ``width`` bits, none above ``highest``."""
    return 1 - (1 << (width - 1)), min(1 << (width - 1), highest)

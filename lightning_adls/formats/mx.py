"""OCP microscaling formats (MX specification v1.0, 2023): blocks with a power-of-two scale."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.block_base import BlockFormat, round_to_steps
from lightning_adls.formats.blocks import BlockSize
from lightning_adls.formats.checks import check_integer
from lightning_adls.formats.codes import from_twos_complement, to_twos_complement
from lightning_adls.formats.floats import floor_power, largest_integer, layout
from lightning_adls.formats.minifloat import decode_minifloat, encode_minifloat, round_significand

# (exponent bits, mantissa bits): exponent bias and largest value of the OCP elements. The largest
# values of FP8 are below the top code, which stands for NaN in E4M3 and infinity in E5M2.
_ELEMENTS = {
    (4, 3): (7, 448.0),
    (5, 2): (15, 57344.0),
    (2, 3): (1, 7.5),
    (3, 2): (3, 28.0),
    (2, 1): (1, 6.0),
}


@dataclass(frozen=True)
class _MX(BlockFormat):
    scales_by_exponent = True

    block_size: BlockSize = field(default=32, kw_only=True)

    @property
    def shared_bits(self) -> int:
        return 8

    @property
    def shared_range(self) -> tuple[int, int]:
        return -127, 127  # E8M0; its last code is NaN


@dataclass(frozen=True)
class MXInt(_MX):
    """Integers with a shared scale (MX specification v1.0, section 5.3.4, and narrower ones).

    The scale is ``2**s`` with ``s = floor(log2(largest))``; an element is ``k / 2**(width - 2)``
    with ``|k| < 2**(width - 1)``. The code for -2 stays unused, as the specification permits:
    it would give the block a larger scale when it is rounded once more.

    Args:
        width: Bits of an element, 2 to 32; 8 is MXINT8.
        block_size: Elements per block along the last dimension, or a tile (rows, columns); -1 is a
            whole dimension.

    Example:
        >>> import torch
        >>> MXInt(width=4)(torch.tensor([5.0, 1.4, -7.9]))
        tensor([ 5.,  1., -7.])
    """

    width: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 32, "for one bit use Binary")

    @property
    def code_bits(self) -> int:
        return self.width

    def scale(self, largest: Tensor) -> Tensor:
        return floor_power(largest, *self.shared_range)

    def largest_element(self, dtype: torch.dtype) -> float:
        return largest_integer(self.width - 1, dtype) * 2.0 ** (2 - self.width)

    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        return round_to_steps(blocks, scale, self.width)

    def encode_element(self, x: Tensor) -> Tensor:
        return to_twos_complement((x * 2.0 ** (self.width - 2)).long(), self.width)

    def decode_element(self, codes: Tensor) -> Tensor:
        k = from_twos_complement(codes, self.width)
        return k.double().mul_(2.0 ** (2 - self.width))


@dataclass(frozen=True)
class MXFP(_MX):
    """OCP FP8, FP6 and FP4 with a shared scale (MX specification v1.0, sections 5.2 and 5.3).

    The scale is ``2**s`` with ``s = floor(log2(largest)) - emax``, where ``emax`` is the exponent
    of the element's largest value: 448 for E4M3, 57344 for E5M2, 7.5 for E2M3, 28 for E3M2 and
    6 for E2M1. Ties round to even; elements saturate.

    Args:
        exponent_width: Exponent bits of an element.
        mantissa_width: Mantissa bits of an element; with the exponent one of (4, 3), (5, 2),
            (2, 3), (3, 2) and (2, 1).
        block_size: Elements per block along the last dimension, or a tile (rows, columns); -1 is a
            whole dimension.

    Example:
        >>> import torch
        >>> MXFP(exponent_width=2, mantissa_width=1)(torch.tensor([5.0, 1.2, -0.1, 7.9]))
        tensor([4., 1., 0., 6.])
    """

    exponent_width: int = 4
    mantissa_width: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "exponent_width", 2, 5)
        check_integer(self, "mantissa_width", 1, 3)
        if (self.exponent_width, self.mantissa_width) not in _ELEMENTS:
            known = ", ".join(str(pair) for pair in _ELEMENTS)
            raise InputValueError(
                f"MXFP: mantissa_width={self.mantissa_width} is no OCP element with "
                f"exponent_width={self.exponent_width}; use (exponent, mantissa) {known}."
            )

    @property
    def code_bits(self) -> int:
        return 1 + self.exponent_width + self.mantissa_width

    @property
    def _element(self) -> tuple[int, float]:
        """Exponent bias and largest value."""
        return _ELEMENTS[self.exponent_width, self.mantissa_width]

    def scale(self, largest: Tensor) -> Tensor:
        emax = math.frexp(self._element[1])[1] - 1
        lowest, highest = self.shared_range
        highest = min(highest + emax, layout(largest.dtype).bias)
        return floor_power(largest, lowest + emax, highest) * 2.0**-emax

    def largest_element(self, dtype: torch.dtype) -> float:
        return self._element[1]

    def round_blocks(self, blocks: Tensor, scale: Tensor) -> Tensor:
        bias, largest = self._element
        grid = self.mantissa_width, 1 - bias, largest
        return round_significand(blocks / scale, *grid, overwrite=True).mul_(scale)

    def encode_element(self, x: Tensor) -> Tensor:
        return encode_minifloat(x, self.mantissa_width, 1 - self._element[0], self.code_bits)

    def decode_element(self, codes: Tensor) -> Tensor:
        return decode_minifloat(codes, self.mantissa_width, 1 - self._element[0], self.code_bits)

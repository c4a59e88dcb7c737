"""Powers of two: base-2 logarithmic numbers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats import without_bits
from lightning_adls.formats.base import NumberFormat
from lightning_adls.formats.checks import check_integer
from lightning_adls.formats.codes import sign_and_magnitude, with_sign
from lightning_adls.formats.floats import (
    FLOAT64,
    floor_log2,
    keep_nan,
    layout,
    power_of_two,
    with_sign_of,
    within,
)


def round_power(x: Tensor, lowest: int, highest: int) -> Tensor:
    """``2**round(log2(x))`` for finite ``x >= 0``, limited to ``2**lowest..2**highest``.

    Args:
        x: float32 or float64.
        lowest: Smallest exponent, of a normal number of the dtype.
        highest: Largest exponent, of a number of the dtype.
    """
    if without_bits.are_bits_unknown():
        return power_of_two(without_bits.round_log2(x).clamp(lowest, highest), x.dtype)
    digits, _, integer = layout(x.dtype)
    power = x.view(integer).add(_carry_from_root_two(digits)).bitwise_and_(-1 << digits)
    return power.view(x.dtype).clamp_(2.0**lowest, 2.0**highest)


def _carry_from_root_two(digits: int) -> int:
    """What to add to the bits of a float so that sqrt(2) and above carry into the exponent."""
    # sqrt(2) is irrational: the first float above it is the first one that is nearer to 2.
    return (2 << digits) - math.isqrt(2 << (2 * digits)) - 1


def round_to_power(x: Tensor, lowest: int, highest: int, *, overwrite: bool = False) -> Tensor:
    """Round the magnitude to ``2**round(log2(x))``, keeping the sign.

    Args:
        x: float32 or float64.
        lowest: Smallest exponent; what would round to less becomes zero. In float64 at least
            -1021, so that its subnormals are zero.
        highest: Largest exponent; larger magnitudes saturate.
        overwrite: Whether the memory of ``x`` may be used.
    """
    limit = math.ldexp(1.0, min(highest, layout(x.dtype).bias))
    y = within(x, limit, overwrite)
    if lowest >= 2 - layout(x.dtype).bias:
        return _carry_digits(y, lowest)
    # What is subnormal in float32 is an ordinary number in float64.
    return _carry_digits(y.double(), max(lowest, 2 - FLOAT64.bias)).to(x.dtype)


def _carry_digits(y: Tensor, lowest: int) -> Tensor:
    digits, _, integer = layout(y.dtype)
    if without_bits.are_bits_unknown():
        exponent = without_bits.round_log2(y.abs())
        magnitude = power_of_two(exponent, y.dtype).where(exponent >= lowest, 0.0)
        return keep_nan(with_sign_of(magnitude, y), y)
    power = y.view(integer).add(_carry_from_root_two(digits)).bitwise_and_(-1 << digits)
    kept = torch.nn.functional.hardshrink(power.view(y.dtype), math.ldexp(1.0, lowest - 1))
    return kept.add_(y, alpha=0.0)  # adds nothing but NaN, whose bits were rounded to a number


def encode_power(x: Tensor, lowest: int, width: int) -> Tensor:
    """Codes of rounded ``x``: 0 is zero, ``c`` is ``2**(lowest + c - 1)``; the top bit the sign."""
    exponent = floor_log2(x.abs()) - lowest + 1
    return torch.where(x == 0, 0, with_sign(exponent, x, width))


def decode_power(codes: Tensor, lowest: int, width: int) -> Tensor:
    """Values, in float64, of the codes that ``encode_power`` gives."""
    sign, magnitude = sign_and_magnitude(codes, width)
    exponent = (magnitude - 1 + lowest).clamp(-1022, 1023)
    power = power_of_two(exponent, torch.float64)
    return torch.where(magnitude == 0, 0.0, sign * power)


@dataclass(frozen=True)
class Log(NumberFormat):
    """Base-2 logarithmic numbers (Miyashita, Lee, Murmann 2016, arXiv:1603.01025).

    A sign and a code ``c`` of ``width - 1`` bits, which stands for ``2**(c-b)``; code 0 is zero.
    Rounding is to the nearest in the log domain: the boundary between two powers is
    their geometric mean, and below that of the smallest power and the one under it is zero.
    Powers that float32 (float64 for a float64 input) cannot hold are left out.

    Args:
        width: Total bits, 2 to 32.
        exponent_bias: ``b``, -126 to ``2**(width - 1) + 125``; None is ``2**(width - 2) - 1``.

    Example:
        >>> import torch
        >>> Log(width=4)(torch.tensor([0.3, 1.4, 1.5, -100.0]))
        tensor([  0.2500,   1.0000,   2.0000, -16.0000])
    """

    width: int = 8
    exponent_bias: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 32, "for one bit use Binary")
        within = "beyond that no value is left in the range of float32"
        highest = (1 << (self.width - 1)) + 125
        check_integer(self, "exponent_bias", -126, highest, within, optional=True)

    @property
    def code_bits(self) -> int:
        return self.width

    @property
    def rounds_elements_apart(self) -> bool:
        return True

    @property
    def rounds_rows_apart(self) -> bool:
        return True

    @property
    def _range(self) -> tuple[int, int]:
        """Smallest and largest exponent."""
        standard = (1 << (self.width - 2)) - 1
        bias = standard if self.exponent_bias is None else self.exponent_bias
        return 1 - bias, (1 << (self.width - 1)) - 1 - bias

    def limits(self, x: Tensor) -> tuple[float, float]:
        largest = 2.0 ** min(self._range[1], layout(x.dtype).bias)
        return -largest, largest

    def round(self, x: Tensor) -> Tensor:
        return round_to_power(x, *self._range)

    def to_codes(self, x: Tensor) -> tuple[Tensor, None]:
        return encode_power(self.round(x), self._range[0], self.width), None

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        return decode_power(codes, self._range[0], self.width)

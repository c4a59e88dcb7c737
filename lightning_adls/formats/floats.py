"""The bits of a float: exponents read and written exactly.

``log2`` and ``2**e`` round on some devices. Shared exponents go through float64, which holds every
float32 as a normal number, those that are subnormal in float32 included.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adls.formats import without_bits


class Layout(NamedTuple):
    """How a dtype stores a float: sign, exponent + bias, digits after the leading one."""

    digits: int
    bias: int
    integer: torch.dtype


FLOAT32 = Layout(23, 127, torch.int32)
FLOAT64 = Layout(52, 1023, torch.int64)


def layout(dtype: torch.dtype) -> Layout:
    """Layout of float32 or float64."""
    return FLOAT64 if dtype == torch.float64 else FLOAT32


def largest_value(mantissa: int, exponent: int, dtype: torch.dtype) -> float:
    """Largest float of ``dtype`` with at most these digits after the leading one and exponent."""
    digits, bias, _ = layout(dtype)
    return math.ldexp(2 - 2.0 ** -min(mantissa, digits), min(exponent, bias))


def largest_integer(bits: int, dtype: torch.dtype) -> float:
    """Largest of the unsigned integers of this many bits that ``dtype`` holds."""
    return float(2**bits - 2 ** max(0, bits - layout(dtype).digits - 1))


def finite_magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes, with zero for what is not finite.

    Returns:
        ``abs(x)`` or 0, and integers that are -1 where ``x`` is not finite, else 0.
    """
    if without_bits.are_bits_unknown():
        return without_bits.finite_magnitude(x)
    digits, bias, integer = layout(x.dtype)
    sign = torch.iinfo(integer).min
    # Moved down by the bits of infinity, those of finite magnitudes are negative; with the sign
    # flipped they are above all others, which a clamp brings to zero. Integers because comparing
    # and selecting floats, or testing them for NaN, takes torch many times as long.
    bits = (x.view(integer) & ~sign).sub_((2 * bias + 1) << digits).bitwise_xor_(sign)
    infinite = bits >> (torch.iinfo(integer).bits - 1)
    return bits.clamp_(min=1 << digits).sub_(1 << digits).view(x.dtype), infinite


def keep_nan(rounded: Tensor, x: Tensor) -> Tensor:
    """Put the NaN of ``x`` into ``rounded``, in place and without a comparison."""
    if without_bits.are_bits_unknown():
        return without_bits.keep_nan(rounded, x)
    return rounded.add_(x.clamp(-1.0, 1.0), alpha=0.0)


def with_sign_of(magnitude: Tensor, x: Tensor) -> Tensor:
    """``magnitude``, which is not negative, with the sign of ``x``; both broadcast."""
    if without_bits.are_bits_unknown():
        return without_bits.with_sign_of(magnitude, x)
    return torch.copysign(magnitude, x)


def floor_log2(x: Tensor) -> Tensor:
    """``floor(log2(x))`` as int64, for finite ``x >= 0``; -1023 for 0 and float64 subnormals."""
    if without_bits.are_bits_unknown():
        return without_bits.floor_log2(x)
    return (x.double().view(torch.int64) >> 52) - 1023


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponent`` for int64 exponents in -1022..1023 that ``dtype`` can hold."""
    if without_bits.are_bits_unknown():
        return without_bits.power_of_two(exponent, dtype)
    return ((exponent + 1023) << 52).view(torch.float64).to(dtype)

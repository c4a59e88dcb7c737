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
        ``abs(x)`` or 0, and 1 where ``x`` is finite, else 0; both in the dtype of ``x``.
    """
    if without_bits.are_bits_unknown():
        return without_bits.finite_magnitude(x)
    if torch.compiler.is_compiling():
        # Inductor looks for NaN one element at a time.
        magnitude = x.abs()
        within = magnitude < torch.inf
        return magnitude.where(within, 0.0), within.to(x.dtype)
    finite = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    counted = (x - finite).eq_(0)  # faster than comparing into bools
    return finite.abs_(), counted


def is_compiled_for_gpu(x: Tensor) -> bool:
    """Whether what is traced becomes a Triton kernel, whose arithmetic is not that of IEEE 754.

    Division is approximate there, ``floor`` takes subnormal numbers for zero, and a product and a
    sum are one operation, rounded once. What is exact anyway, as division by a power of two is, may
    stay as it is.
    """
    return x.is_cuda and torch.compiler.is_compiling()


def quotient(x: Tensor, divisor: Tensor) -> Tensor:
    """``x / divisor``, rounded once; both of the same dtype."""
    if x.dtype == torch.float32 and is_compiled_for_gpu(x):
        # Float64 has more than twice the digits, so that rounding twice is rounding once.
        return (x.double() / divisor.double()).float()
    return x / divisor


def floor_(x: Tensor) -> Tensor:
    """``x.floor_()``."""
    if is_compiled_for_gpu(x):
        whole = x.round()
        return whole - (whole > x).to(x.dtype)
    return x.floor_()


def keep_nan(rounded: Tensor, x: Tensor) -> Tensor:
    """Put the NaN of ``x`` into ``rounded``, in place and without a comparison."""
    if without_bits.are_bits_unknown():
        return without_bits.keep_nan(rounded, x)
    return rounded.add_(x.clamp(-1.0, 1.0), alpha=0.0)


def with_sign_of(magnitude: Tensor, x: Tensor, spare: Tensor | None = None) -> Tensor:
    """``magnitude``, which is not negative, with the sign of ``x``.

    Args:
        magnitude: Broadcasts to the shape of ``x``.
        x: float32 or float64.
        spare: A tensor like ``x``, or ``x`` itself, whose memory may be used.
    """
    if without_bits.are_bits_unknown():
        return without_bits.with_sign_of(magnitude, x)
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return torch.copysign(magnitude, x)
    # Eager torch takes nearly twice as long for `copysign`, but knows its gradient.
    integer = layout(x.dtype).integer
    out = None if spare is None else spare.view(integer)
    sign = torch.bitwise_and(x.view(integer), torch.iinfo(integer).min, out=out)
    return sign.bitwise_or_(magnitude.view(integer)).view(x.dtype)


def signs(x: Tensor) -> Tensor:
    """-1 where ``x`` is below 0, NaN where it is NaN, else 1; float32 or float64."""
    if without_bits.are_bits_unknown() or torch.compiler.is_compiling():
        # Adding zero makes -0.0 positive.
        return keep_nan(with_sign_of(x.new_ones(()), x + 0.0), x)
    digits, bias, _ = layout(x.dtype)
    # What is added is smaller than any number but zero, which it makes positive.
    least = 2.0**-digits
    y = torch.add(x.new_full((), least), x, alpha=2.0**bias)
    return y.clamp_(-least, least).mul_(2.0**digits)


def floor_log2(x: Tensor) -> Tensor:
    """``floor(log2(x))`` as int64, for finite ``x >= 0``; -1023 for 0 and float64 subnormals."""
    if without_bits.are_bits_unknown():
        return without_bits.floor_log2(x)
    return (x.double().view(torch.int64) >> 52) - 1023


def floor_power(x: Tensor, lowest: int, highest: int) -> Tensor:
    """``2**floor(log2(x))`` for finite ``x >= 0``, limited to ``2**lowest..2**highest``.

    Args:
        x: float32 or float64.
        lowest: At least -128; smaller powers are not told apart in float32.
        highest: At most the largest exponent of the dtype.
    """
    if without_bits.are_bits_unknown():
        return power_of_two(floor_log2(x).clamp(lowest, highest), x.dtype)
    digits, bias, integer = layout(x.dtype)
    bits = x.view(integer)
    power = bits & ((2 * bias + 1) << digits)
    if lowest < 1 - bias:
        # The first digit alone, which a subnormal number has in place of an exponent, is 2**-127.
        # Where there is an exponent, that is more.
        power = torch.maximum(power, bits & (1 << (digits - 1)))
    return power.view(x.dtype).clamp_(2.0**lowest, None if highest >= bias else 2.0**highest)


def within(x: Tensor, limit: float, overwrite: bool = False) -> Tensor:
    """``x`` saturated at plus and minus ``limit``; where its memory may be used, in place."""
    if without_bits.are_bits_unknown():
        return without_bits.within(x, limit)
    return torch.clamp(x, -limit, limit, out=x if overwrite else None)


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponent`` for int64 exponents in -1022..1023 that ``dtype`` can hold."""
    if without_bits.are_bits_unknown():
        return without_bits.power_of_two(exponent, dtype)
    return ((exponent + 1023) << 52).view(torch.float64).to(dtype)

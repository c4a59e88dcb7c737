"""Floating point with few bits."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats.base import NumberFormat
from lightning_adls.formats.checks import check_integer, check_mantissa
from lightning_adls.formats.codes import sign_and_magnitude, with_sign
from lightning_adls.formats.floats import floor_log2, largest_value, layout, power_of_two, within
from lightning_adls.formats.without_bits import are_bits_unknown


def round_significand(
    x: Tensor, mantissa: int, lowest: int, largest: float, *, overwrite: bool = False
) -> Tensor:
    """Round to ``mantissa`` digits after the leading one, ties to even, saturating.

    Args:
        x: float32 or float64.
        mantissa: Digits after the leading one of a normal number.
        lowest: Exponent of the smallest normal number; below it the step stays the same.
        largest: Largest value, which the dtype of ``x`` holds.
        overwrite: Whether the memory of ``x`` may be used.
    """
    digits, bias, _ = layout(x.dtype)
    top = math.frexp(largest)[1] - 1
    fits = mantissa <= digits - 2 and lowest >= 1 - bias and top + digits - mantissa <= bias
    y = within(x, largest, overwrite)
    if fits:
        return _push_out_digits(y, mantissa, lowest)
    return _push_out_digits(y.double(), mantissa, lowest).float()  # where everything fits


def _push_out_digits(y: Tensor, mantissa: int, lowest: int) -> Tensor:
    # Adding 1.5 * 2**(exponent of y + digits - mantissa) pushes out the digits that are too many,
    # rounding to even; subtracting it again is exact.
    digits, bias, integer = layout(y.dtype)
    if are_bits_unknown():
        exponent = floor_log2(y.abs()).clamp(min=lowest)
        added = power_of_two(exponent + (digits - mantissa), y.dtype) * 1.5
        return y + added - added
    power = (y.view(integer) & ((2 * bias + 1) << digits)).view(y.dtype).clamp_(min=2.0**lowest)
    factor = 1.5 * 2.0 ** (digits - mantissa)
    return y.add_(power, alpha=factor).sub_(power, alpha=factor)


def significand_and_exponent(x: Tensor, mantissa: int, lowest: int) -> tuple[Tensor, Tensor]:
    """Write rounded ``x`` as ``whole * 2**(lowest + field - mantissa)``.

    Returns:
        ``whole`` in ``0..2**(mantissa + 1) - 1`` and ``field`` from 0, both int64. ``whole``
        includes the leading one, which it lacks only where ``field`` is 0.
    """
    magnitude = x.abs().double()
    exponent = floor_log2(magnitude).clamp(min=lowest)
    whole = magnitude * power_of_two(mantissa - exponent, torch.float64)
    return whole.long(), exponent - lowest


def encode_minifloat(x: Tensor, mantissa: int, lowest: int, width: int) -> Tensor:
    """Codes (sign, exponent, mantissa) with an implicit leading one, of rounded ``x``."""
    whole, field = significand_and_exponent(x, mantissa, lowest)
    # A leading one carries into the exponent field, which makes the fields of normal numbers >= 1.
    return with_sign((field << mantissa) + whole, x, width)


def decode_minifloat(codes: Tensor, mantissa: int, lowest: int, width: int) -> Tensor:
    """Values, in float64, of codes with an implicit leading one."""
    sign, magnitude = sign_and_magnitude(codes, width)
    field = magnitude >> mantissa
    whole = (magnitude & ((1 << mantissa) - 1)) + ((field > 0).long() << mantissa)
    exponent = field.clamp(min=1) - 1 + lowest - mantissa
    return sign * whole * power_of_two(exponent, torch.float64)


@dataclass(frozen=True)
class _Minifloat(NumberFormat):
    width: int = 8
    exponent_width: int = 4
    exponent_bias: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 3, 32, "sign, exponent and mantissa take one bit each")
        check_integer(self, "exponent_width", 1, 8, "float32 has 8 exponent bits")
        check_mantissa(self, self.exponent_width, self.width)
        within = "beyond that the values leave the range of float32"
        check_integer(self, "exponent_bias", -126, 127, within, optional=True)

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
    def _bias(self) -> int:
        standard = (1 << (self.exponent_width - 1)) - 1
        return standard if self.exponent_bias is None else self.exponent_bias

    @property
    def _mantissa_width(self) -> int:
        return self.width - 1 - self.exponent_width

    @property
    @abstractmethod
    def _grid(self) -> tuple[int, int, int]:
        """Digits after the leading one, exponent of smallest and of largest normal number."""

    def limits(self, x: Tensor) -> tuple[float, float]:
        mantissa, _, highest = self._grid
        largest = largest_value(mantissa, highest, x.dtype)
        return -largest, largest

    def round(self, x: Tensor) -> Tensor:
        mantissa, lowest, highest = self._grid
        return round_significand(x, mantissa, lowest, largest_value(mantissa, highest, x.dtype))


@dataclass(frozen=True)
class MinifloatIEEE(_Minifloat):
    """Floating point as in IEEE 754, without codes for infinity and NaN.

    With exponent field ``e``, mantissa ``M`` of ``m = width - 1 - exponent_width`` bits and bias
    ``b``, a code stands for ``2**(e-b) * (1 + M/2**m)`` if ``e > 0``, else for
    ``2**(1-b) * M/2**m`` (gradual underflow). The all-ones exponent is an ordinary number, so the
    range is wider than that of an IEEE format of this width. Ties round to the even code.
    With ``m`` above 23 only the values that float32 holds are used.

    Args:
        width: Total bits, 3 to 32.
        exponent_width: Exponent bits, 1 to 8, at most ``width - 2``.
        exponent_bias: ``b``, -126 to 127; None is ``2**(exponent_width - 1) - 1``.

    Example:
        >>> import torch
        >>> MinifloatIEEE(width=4, exponent_width=2)(torch.tensor([0.3, 2.4, 100.0]))
        tensor([0.5000, 2.0000, 6.0000])
    """

    @property
    def _grid(self) -> tuple[int, int, int]:
        lowest = 1 - self._bias
        return self._mantissa_width, lowest, lowest + (1 << self.exponent_width) - 2

    def to_codes(self, x: Tensor) -> tuple[Tensor, None]:
        mantissa, lowest, _ = self._grid
        return encode_minifloat(self.round(x), mantissa, lowest, self.width), None

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        mantissa, lowest, _ = self._grid
        return decode_minifloat(codes, mantissa, lowest, self.width)


@dataclass(frozen=True)
class MinifloatDenorm(_Minifloat):
    """Floating point without an implicit leading one.

    A code stands for ``2**(e-b) * M/2**m`` at every exponent field ``e``; a value that has several
    codes gets the one with the smallest ``e``. Ties round to the even code; with one mantissa
    bit, where no code but zero's is even, a tie between powers of two rounds away from zero.
    Parameters as in ``MinifloatIEEE``, which has twice the precision in as many bits.

    Args:
        width: Total bits, 3 to 32.
        exponent_width: Exponent bits, 1 to 8, at most ``width - 2``.
        exponent_bias: ``b``, -126 to 127; None is ``2**(exponent_width - 1) - 1``.

    Example:
        >>> import torch
        >>> MinifloatDenorm(width=5, exponent_width=2)(torch.tensor([0.3, 2.4, 100.0]))
        tensor([0.2500, 2.0000, 3.0000])
    """

    @property
    def _grid(self) -> tuple[int, int, int]:
        lowest = -self._bias - 1
        return self._mantissa_width - 1, lowest, lowest + (1 << self.exponent_width) - 1

    def to_codes(self, x: Tensor) -> tuple[Tensor, None]:
        mantissa, lowest, _ = self._grid
        rounded = self.round(x)
        whole, field = significand_and_exponent(rounded, mantissa, lowest)
        return with_sign((field << self._mantissa_width) | whole, rounded, self.width), None

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        sign, magnitude = sign_and_magnitude(codes, self.width)
        whole = magnitude & ((1 << self._mantissa_width) - 1)
        exponent = (magnitude >> self._mantissa_width) - self._bias - self._mantissa_width
        return sign * whole * power_of_two(exponent, torch.float64)

"""Two's-complement fixed point."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lightning_adls.formats.base import NumberFormat
from lightning_adls.formats.checks import check_choice, check_integer
from lightning_adls.formats.codes import from_twos_complement, to_twos_complement
from lightning_adls.formats.floats import floor_, largest_integer


@dataclass(frozen=True)
class Integer(NumberFormat):
    """Fixed point: ``k * 2**-frac_width``, with ``k`` an integer of ``width`` bits.

    Ties round to even ``k``; values out of range saturate. Exact up to 24 bits, the significand
    of the float32 it is computed in: above that only the ``k`` that float32 holds are used.

    Args:
        width: Total bits, sign included, 2 to 32.
        frac_width: Bits after the binary point, ``width - 128`` to 126; may be negative (steps
            of 2, 4, ...) or exceed ``width`` (all values well below 1).
        rounding: "nearest" or "floor" (towards minus infinity).
        signed: Whether ``k`` is in two's complement; otherwise it starts at 0.

    Example:
        >>> import torch
        >>> Integer(width=4, frac_width=2)(torch.tensor([0.3, 9.0, -9.0]))
        tensor([ 0.2500,  1.7500, -2.0000])
    """

    width: int = 8
    frac_width: int = 4
    rounding: str = "nearest"
    signed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 32, "for one bit use Binary")
        within = "beyond that the values leave the range of float32"
        check_integer(self, "frac_width", *self._frac_widths(), within)
        check_choice(self, "rounding", ("nearest", "floor"))
        check_choice(self, "signed", (True, False))

    @property
    def rounds_elements_apart(self) -> bool:
        return True

    @property
    def code_bits(self) -> int:
        return self.width

    def _frac_widths(self) -> tuple[int, int]:
        """Smallest and largest ``frac_width``."""
        return self.width - 128, 126

    def _range(self, dtype: torch.dtype) -> tuple[float, float]:
        """Smallest and largest ``k`` that ``dtype`` holds."""
        bits = self.width - self.signed
        return float(-(2**bits) if self.signed else 0), largest_integer(bits, dtype)

    def round(self, x: Tensor) -> Tensor:
        low, high = self._range(x.dtype)
        scaled = x * 2.0**self.frac_width
        whole = scaled.round_() if self.rounding == "nearest" else floor_(scaled)
        return whole.clamp_(low, high).mul_(2.0**-self.frac_width)

    def limits(self, x: Tensor) -> tuple[float, float]:
        low, high = self._range(x.dtype)
        return low * 2.0**-self.frac_width, high * 2.0**-self.frac_width

    def to_codes(self, x: Tensor) -> tuple[Tensor, None]:
        k = self.round(x).mul_(2.0**self.frac_width).long()  # exact, as float32 too
        return to_twos_complement(k, self.width), None

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        k = from_twos_complement(codes, self.width) if self.signed else codes
        return k.double().mul_(2.0**-self.frac_width)

    def calibrated(self, low: float, high: float, sample: Tensor, observer: str) -> Self:
        """This format with the ``frac_width`` that suits observed data; as it is if all are 0.

        Values below 0 do not count if the format is unsigned: none can be represented.
        """
        super().calibrated(low, high, sample, observer)
        sample = sample.detach().double()
        if not self.signed:
            low, high, sample = max(low, 0.0), max(high, 0.0), sample.clamp(min=0.0)
        if observer == "percentile":
            magnitudes = sample[sample != 0].abs()
            if count := magnitudes.numel():
                bound = magnitudes.kthvalue(math.ceil(0.999 * count)).values.item()
                low, high = max(low, -bound), min(high, bound)
        if low == high == 0:
            return self
        finest = replace(self, frac_width=self._finest(low, high))
        return self._of_least_error(finest, sample) if observer == "mse" else finest

    def _finest(self, low: float, high: float) -> int:
        """The largest ``frac_width`` whose range holds ``low`` and ``high``, or the smallest."""
        least, greatest = self._range(torch.float32)
        smallest, largest = self._frac_widths()
        for frac_width in range(largest, smallest, -1):
            step = 2.0**-frac_width
            if least * step <= low and high <= greatest * step:
                return frac_width
        return smallest

    def _of_least_error(self, finest: Self, sample: Tensor) -> Self:
        """The format of least squared error, starting with one at which nothing saturates."""
        # Coarser formats are no better for any value. What saturates only grows with frac_width.
        best, least = finest, math.inf
        for frac_width in range(finest.frac_width, self._frac_widths()[1] + 1):
            fmt = replace(self, frac_width=frac_width)
            if (sample - sample.clamp(*fmt.limits(sample))).square().sum().item() > least:
                break
            error = (fmt(sample) - sample).square().sum().item()
            if error < least:
                best, least = fmt, error
        return best

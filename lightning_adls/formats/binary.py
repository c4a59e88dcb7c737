"""One bit per element: the sign."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats.base import Bound, NumberFormat, widen
from lightning_adls.formats.checks import check_choice
from lightning_adls.formats.floats import finite_magnitude, keep_nan, signs, with_sign_of
from lightning_adls.formats.host import is_finite, is_readable
from lightning_adls.formats.means import mean_in_parts
from lightning_adls.formats.steps import Steps

SCALES = ("none", "per_tensor", "per_channel")


def mean_magnitude(x: Tensor, scale: str) -> Tensor:
    """Mean of ``abs(x)`` over finite elements, or 0 if there are none.

    Args:
        x: float32 or float64.
        scale: "per_tensor", or "per_channel": one mean for each index of the first dimension.
            With a single dimension that would be one mean per element, so it is per tensor.

    Returns:
        Shape of ``x`` with every averaged dimension kept as 1.
    """
    return finite_magnitude_and_mean(x, scale)[1]


def finite_magnitude_and_mean(x: Tensor, scale: str) -> tuple[Tensor, Tensor, bool]:
    """``abs(x)``, or 0 where ``x`` is not finite, and its :func:`mean_magnitude`.

    Returns:
        The magnitude, in the dtype and shape of ``x``, the mean, and whether all of ``x`` is known
        to be finite.
    """
    if is_readable(x):
        magnitude = x.abs()
        total = _sum(magnitude, scale, torch.float64)
        if is_finite(total):  # what is not finite leaves no finite sum
            mean = total / max(_elements(x, scale), 1)
            return magnitude, mean.to(x.dtype), True
    magnitude, counted = finite_magnitude(x)
    return magnitude, mean_of(magnitude, counted, scale), False


def mean_of(magnitude: Tensor, counted: Tensor, scale: str) -> Tensor:
    """Mean of the magnitudes that count, or 0 if none does; shapes as above.

    Args:
        magnitude: float32 or float64.
        counted: 1 where a magnitude counts; 0 where it does not, and is 0. In the same dtype.
        scale: As above.
    """
    # In float64 a sum of float32 neither overflows nor depends, but for the last bit of the mean
    # in the rarest of cases, on its order.
    total = _sum(magnitude, scale, torch.float64)
    # Float32 counts up to 2**24, and sums several times as fast.
    exact = torch.float64 if _elements(magnitude, scale) > 2**24 else magnitude.dtype
    count = _sum(counted, scale, exact).double()
    return (total / count.clamp_(min=1)).to(magnitude.dtype)


def _first(x: Tensor, scale: str) -> int:
    """The first of the dimensions that a mean is taken over."""
    return 1 if scale == "per_channel" and x.ndim > 1 else 0


def _elements(x: Tensor, scale: str) -> int:
    """The number of elements of one mean."""
    return math.prod(x.shape[_first(x, scale) :])


def _sum(x: Tensor, scale: str, dtype: torch.dtype) -> Tensor:
    """The sums that means are taken of."""
    return x.sum(tuple(range(_first(x, scale), x.ndim)), keepdim=True, dtype=dtype)


def scale_count(shape: Sequence[int], scale: str) -> int:
    """Number of scales that a tensor of this shape has."""
    if scale == "none":
        return 0
    return shape[0] if scale == "per_channel" and len(shape) > 1 else 1


def scales_shape(rows: int, scale: str) -> tuple[int, int] | None:
    """Shape of the scales of a matrix; None if it has none."""
    if scale == "none":
        return None
    return (rows, 1) if scale == "per_channel" else (1, 1)


@dataclass(frozen=True)
class Binary(NumberFormat):
    """The sign times a scale (XNOR-Net, Rastegari et al. 2016, section 3.1).

    There is no zero: 0 becomes plus the scale.

    Args:
        scale: "none" (values are 1 and -1), "per_tensor" or "per_channel" (the mean magnitude of
            the tensor, or of each index of its first dimension).
        stochastic: Whether training rounds at random, to plus the scale with probability
            ``(x / scale + 1) / 2`` clamped to 0..1, so that the mean is kept within the scale
            (BinaryConnect, Courbariaux et al. 2015, section 2.2). Otherwise the sign decides.

    Example:
        >>> import torch
        >>> Binary(scale="per_tensor")(torch.tensor([0.0, -1.0, 3.0, -2.0]))
        tensor([ 1.5000, -1.5000,  1.5000, -1.5000])
    """

    scale: str = "none"
    stochastic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "scale", SCALES)
        check_choice(self, "stochastic", (True, False))

    @property
    def code_bits(self) -> int:
        return 1

    @property
    def rounds_at_random(self) -> bool:
        return self.stochastic

    @property
    def rounds_elements_apart(self) -> bool:
        return self.scale == "none"

    @property
    def rounds_rows_apart(self) -> bool:
        return self.scale == "none" and not self.stochastic  # parts would draw other numbers

    def storage_bits(self, shape: Sequence[int]) -> int:
        return super().storage_bits(shape) + 32 * scale_count(shape, self.scale)

    def _factor(self, x: Tensor) -> Tensor:
        return x.new_ones(()) if self.scale == "none" else mean_magnitude(x, self.scale)

    def round(self, x: Tensor) -> Tensor:
        return signs(x) if self.scale == "none" else signs(x).mul_(self._factor(x))

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        if not (self.stochastic and training):
            return self.round(x)
        factor = self._factor(x)
        noisy = torch.rand_like(x).mul_(-2).add_(1).mul_(factor).add_(x)
        return keep_nan(with_sign_of(factor, noisy, spare=noisy), x)

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        factor = self._factor(x)
        return -factor, factor

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return (x >= 0).long(), None if self.scale == "none" else self._factor(x)

    def scales_shape(self, rows: int) -> tuple[int, ...] | None:
        return scales_shape(rows, self.scale)

    def steps(self, x: Tensor, scales: Tensor | None) -> Steps:
        shared = None if self.scale == "none" else mean_in_parts(x, self.scale == "per_channel")
        return Steps(widen(x[:0]).new_zeros(1), (0, 1), shared)

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        signs = (2 * codes - 1).double()
        return signs if shared is None else signs * shared

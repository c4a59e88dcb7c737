"""One bit per element: the sign."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats.base import Bound, NumberFormat
from lightning_adls.formats.checks import check_choice
from lightning_adls.formats.floats import finite_magnitude, keep_nan, with_sign_of

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
    magnitude, infinite = finite_magnitude(x)
    return mean_without(infinite, magnitude, scale)


def mean_without(left_out: Tensor, magnitude: Tensor, scale: str) -> Tensor:
    """Mean of magnitudes, of which some are left out, or 0 if all are; shapes as above.

    Args:
        left_out: 1 where a magnitude is left out, which is 0 there, else 0; dtype of ``magnitude``.
        magnitude: float32 or float64.
        scale: As above.
    """
    first = 1 if scale == "per_channel" and magnitude.ndim > 1 else 0
    dims = tuple(range(first, magnitude.ndim))
    # In float64 a sum of float32 neither overflows nor depends, but for the last bit of the mean
    # in the rarest of cases, on its order.
    total = magnitude.sum(dims, keepdim=True, dtype=torch.float64)
    elements = math.prod(magnitude.shape[first:])
    # Float32 counts up to 2**24, and sums several times as fast.
    exact = torch.float64 if elements > 2**24 else magnitude.dtype
    count = elements - left_out.sum(dims, keepdim=True, dtype=exact).double()
    return (total / count.clamp_(min=1)).to(magnitude.dtype)


def scale_count(shape: Sequence[int], scale: str) -> int:
    """Number of scales that a tensor of this shape has."""
    if scale == "none":
        return 0
    return shape[0] if scale == "per_channel" and len(shape) > 1 else 1


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
    def rounds_rows_apart(self) -> bool:
        return self.scale == "none" and not self.stochastic  # parts would draw other numbers

    def storage_bits(self, shape: Sequence[int]) -> int:
        return super().storage_bits(shape) + 32 * scale_count(shape, self.scale)

    def _factor(self, x: Tensor) -> Tensor:
        return x.new_ones(()) if self.scale == "none" else mean_magnitude(x, self.scale)

    def round(self, x: Tensor) -> Tensor:
        # Adding zero makes -0.0 positive.
        return keep_nan(with_sign_of(self._factor(x), x + 0.0), x)

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        if not (self.stochastic and training):
            return self.round(x)
        factor = self._factor(x)
        noise = torch.rand_like(x).mul_(-2).add_(1).mul_(factor)
        return keep_nan(with_sign_of(factor, x + noise), x)

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        factor = self._factor(x)
        return -factor, factor

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return (x >= 0).long(), None if self.scale == "none" else self._factor(x)

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        signs = (2 * codes - 1).double()
        return signs if shared is None else signs * shared

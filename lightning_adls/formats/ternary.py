"""Minus one, zero and one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_adls.formats.base import Bound, NumberFormat
from lightning_adls.formats.binary import (
    SCALES,
    finite_magnitude_and_mean,
    mean_of,
    scale_count,
    scales_shape,
)
from lightning_adls.formats.checks import check_choice, check_fraction
from lightning_adls.formats.codes import from_twos_complement, to_twos_complement
from lightning_adls.formats.floats import keep_nan, with_sign_of
from lightning_adls.formats.means import mean_in_parts
from lightning_adls.formats.steps import Steps


@dataclass(frozen=True)
class Ternary(NumberFormat):
    """Minus the scale, zero or the scale (Li & Liu 2016, arXiv:1605.04711, section 2).

    An element is zero unless its magnitude is above ``threshold`` times the mean magnitude. The
    scale is the mean magnitude of the elements that are not zero. So an element does not go to
    the nearest of the three values, but the boundary is chosen for all of them together.

    Args:
        scale: "none" (values are -1, 0 and 1), "per_tensor" or "per_channel" (a threshold and a
            scale for each index of the first dimension).
        threshold: Share of the mean magnitude, 0 <= threshold < 1.

    Example:
        >>> import torch
        >>> Ternary(scale="per_tensor")(torch.tensor([0.1, -1.0, 3.0, -0.3]))
        tensor([ 0., -2.,  2., -0.])
    """

    scale: str = "none"
    threshold: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "scale", SCALES)
        check_fraction(self, "threshold")

    @property
    def code_bits(self) -> int:
        return 2

    def storage_bits(self, shape: Sequence[int]) -> int:
        return super().storage_bits(shape) + 32 * scale_count(shape, self.scale)

    def _kept_and_factor(self, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        """1 where an element is not zero, else 0; the scale; whether ``x`` is known to be finite.

        In the dtype of ``x``; the first is of its shape and 0 for a NaN.
        """
        magnitude, mean, finite = finite_magnitude_and_mean(x, self.scale)
        boundary = mean.mul_(self.threshold)
        if self.scale == "none":
            return (magnitude if finite else x.abs()).gt_(boundary), x.new_ones(()), finite
        kept = magnitude.clone().gt_(boundary)
        factor = mean_of(magnitude.mul_(kept), kept, self.scale)
        return kept if finite else x.abs().gt_(boundary), factor, finite

    def round(self, x: Tensor) -> Tensor:
        kept, factor, finite = self._kept_and_factor(x)
        rounded = with_sign_of(kept if self.scale == "none" else kept.mul_(factor), x)
        return rounded if finite else keep_nan(rounded, x)

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        _, factor, _ = self._kept_and_factor(x)
        return -factor, factor

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        kept, factor, _ = self._kept_and_factor(x)
        digit = with_sign_of(kept, x).long()
        return to_twos_complement(digit, 2), None if self.scale == "none" else factor

    def scales_shape(self, rows: int) -> tuple[int, ...] | None:
        return scales_shape(rows, self.scale)

    def steps(self, x: Tensor, scales: Tensor | None) -> Steps:
        apart = self.scale == "per_channel"
        boundary = mean_in_parts(x, apart).mul_(self.threshold)
        above = boundary.nextafter(boundary.new_tensor(torch.inf))
        at = torch.cat([-boundary, above], 1)
        shared = None if self.scale == "none" else mean_in_parts(x, apart, boundary)
        return Steps(at if apart else at[0], (0b11, 0b00, 0b01), shared)

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        digits = from_twos_complement(codes, 2).double()
        return digits if shared is None else digits * shared

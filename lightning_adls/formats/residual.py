"""Sums of a few signs, each with a scale of its own that can be learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.base import Bound, NumberFormat, widen
from lightning_adls.formats.binary import SCALES, mean_magnitude, scale_count, scales_shape
from lightning_adls.formats.checks import check_choice, check_integer
from lightning_adls.formats.floats import layout, signs, with_sign_of
from lightning_adls.formats.means import mean_in_parts
from lightning_adls.formats.steps import Steps


@dataclass(frozen=True)
class ResidualSign(NumberFormat):
    """A sum of signs: each level binarises what the levels before it left over.

    ReBNet (Ghasemzadeh, Samragh, Koushanfar 2018, arXiv:1711.01243): the value is the
    sum over levels of ``sign(residual) * scale``, where 0 counts as positive. Levels have learned
    scales, of which the magnitude is used. They start at

    - ``2 * (L - l + 1) / (L * (L + 1))`` for ``l = 1..L`` if ``scale`` is "none". The values are
      then equally spaced from -1 to 1, and greedy rounding finds the nearest of them.
    - what suits a normal distribution otherwise: with ``r_1 = abs(x)`` and
      ``r_(l+1) = abs(r_l - mean(r_l))``, level ``l`` starts at ``mean(r_l) / mean(r_1)``, the
      scale of least squared error for a sign. The level scales are multiplied by the mean
      magnitude of the tensor; rounding twice then differs from rounding once.

    Args:
        levels: Number of levels, 1 to 16, which is also the bits per element.
        scale: "none", "per_tensor" or "per_channel": what level scales are multiplied by.

    Example:
        >>> import torch
        >>> ResidualSign(levels=2)(torch.tensor([-5.0, -0.2, 0.0, 0.6, 0.7]))
        tensor([-1.0000, -0.3333,  0.3333,  0.3333,  1.0000])
    """

    learns_scales: ClassVar[bool] = True

    levels: int = 2
    scale: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "levels", 1, 16, "for more bits use Integer")
        check_choice(self, "scale", SCALES)

    @property
    def code_bits(self) -> int:
        return self.levels

    @property
    def rounds_rows_apart(self) -> bool:
        return self.scale == "none"

    def storage_bits(self, shape: Sequence[int]) -> int:
        shared = max(1, scale_count(shape, self.scale)) * self.levels
        return super().storage_bits(shape) + 32 * shared

    def initial_scales(self) -> Tensor:
        if self.scale != "none":
            return _normal_scales(self.levels)
        # Multiples of one number that is short enough for sums of levels to be exact.
        unit = 2**24 // (self.levels * (self.levels + 1) // 2) / 2**24
        return torch.arange(self.levels, 0, -1) * unit

    def _level_scales(self, x: Tensor, scales: Tensor | None) -> Tensor:
        """Magnitudes of every level's scale: ``(levels,)`` before dimensions that fit ``x``."""
        levels = self._levels(x, scales)
        return levels if self.scale == "none" else levels * mean_magnitude(x, self.scale)

    def _levels(self, x: Tensor, scales: Tensor | None) -> Tensor:
        levels = self.initial_scales() if scales is None else scales
        return levels.to(x).abs().reshape(-1, *(1,) * x.ndim)

    def level_scales(self, x: Tensor, scales: Tensor | None) -> Tensor:
        """Scales of the levels of a matrix, computed in parts.

        Args:
            x: Floating point, shape ``(rows, columns)``.
            scales: Learned scales.

        Returns:
            Not negative, shape ``(levels, rows, 1)`` if each row has its own, else
            ``(levels, 1, 1)``.
        """
        levels = self._levels(widen(x[:0]), scales)
        if self.scale == "none":
            return levels
        return levels * mean_in_parts(x, self.scale == "per_channel")

    def scales_shape(self, rows: int) -> tuple[int, ...]:
        scales = scales_shape(rows, self.scale) or (1, 1)
        return self.levels, *scales

    def steps(self, x: Tensor, scales: Tensor | None) -> Steps | None:
        levels = self.level_scales(x, scales)
        if self.levels > 2 or not bool(levels.isfinite().all()):
            return None
        zeros = torch.zeros_like(levels[0])
        if self.levels == 1:
            return Steps(zeros[0], (0, 1), levels)
        at = torch.cat([-levels[0], zeros, levels[0]], 1)
        return Steps(at if self.scale == "per_channel" else at[0], (0, 1, 2, 3), levels)

    def round(self, x: Tensor) -> Tensor:
        return self._round(x, None, False)

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        first, *others = self._level_scales(x, scales)
        total = signs(x).mul_(first)
        if not others:
            return total
        residual = (x + 0.0).sub_(total)
        for scale in others[:-1]:
            part = with_sign_of(scale, residual)
            total.add_(part)
            residual.sub_(part)
        return total.add_(with_sign_of(others[-1], residual, spare=residual))

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        return self._limits(x, None)

    def _limits(self, x: Tensor, scales: Tensor | None) -> tuple[Bound, Bound]:
        largest = self._level_scales(x, scales).sum(0)
        return -largest, largest

    def _scales_gradient(self, x: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
        # A level scale is abs(scale) times the mean magnitude, which a scale of one gives.
        factors = self._level_scales(x, torch.ones_like(scales))
        sums: list[Tensor] = []
        residual = x + 0.0  # as in _parts
        spare = torch.empty_like(residual)
        for factor, scale in zip(factors, self._level_scales(x, scales), strict=True):
            sums.append(with_sign_of(factor, residual, spare).mul_(grad).sum())
            if len(sums) < self.levels:
                residual.sub_(with_sign_of(scale, residual, spare))
        return torch.stack(sums) * torch.where(scales < 0, -1.0, 1.0)

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._encode(x, None)

    def _encode(self, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        level_scales = self._level_scales(x, scales)
        return self.codes_by(x, level_scales).long(), level_scales

    def codes_by(self, x: Tensor, level_scales: Tensor) -> Tensor:
        """Codes of float32 or float64 ``x``, given what :meth:`level_scales` gives."""
        _, _, integer = layout(x.dtype)
        codes = torch.zeros_like(x, dtype=integer)
        for part in _parts(x, level_scales):
            codes.mul_(2).sub_(part.view(integer).bitwise_not_() >> torch.iinfo(integer).bits - 1)
        return codes

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        assert shared is not None
        bits = [codes >> place & 1 for place in reversed(range(self.levels))]
        pairs = zip(bits, shared, strict=True)
        return _total([torch.where(bit > 0, scale, -scale) for bit, scale in pairs])

    def _check(self, x: Tensor, scales: Tensor | None) -> None:
        super()._check(x, scales)
        if scales is not None and scales.shape != (self.levels,):
            raise InputValueError(
                f"ResidualSign: scales.shape={tuple(scales.shape)} does not fit "
                f"levels={self.levels}; its shape is ({self.levels},)."
            )


def _parts(x: Tensor, level_scales: Tensor) -> list[Tensor]:
    """What every level contributes: its scale with the sign of the residual."""
    parts: list[Tensor] = []
    residual = x + 0.0  # which makes -0.0 positive
    for scale in level_scales:
        if parts:
            residual.sub_(parts[-1])
        parts.append(with_sign_of(scale, residual))
    return parts


def _total(parts: list[Tensor]) -> Tensor:
    """The sum, in an order that encoding and rounding agree on; changes the first."""
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


def _normal_scales(levels: int) -> Tensor:
    """Level scales for a normal distribution, relative to its mean magnitude."""
    quantiles = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    residual = torch.special.ndtri((1 + quantiles) / 2)
    means = []
    for _ in range(levels):
        means.append(residual.mean())
        residual = (residual - means[-1]).abs()
    return torch.stack(means).div(means[0]).float()

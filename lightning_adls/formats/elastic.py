"""One bit per element, whose scale and threshold are learned together with the weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.base import Bound, NumberFormat, widen
from lightning_adls.formats.checks import check_choice
from lightning_adls.formats.floats import quotient, signs
from lightning_adls.formats.means import finite_mean
from lightning_adls.formats.steps import Steps


@dataclass(frozen=True)
class ElasticBinary(NumberFormat):
    """Two values, a learned scale apart from 0 and parted by a learned threshold.

    The elastic binarisation of BiT (Liu et al. 2022, NeurIPS, arXiv:2205.13016, section 3.2). Of
    the scales ``(a, b)`` the first is used by magnitude and kept away from 0 and infinity. With
    ``v = (x - b) / a``:

    - signed, the value is ``a * sign(v)``, where 0 counts as positive. Its gradient with respect to
      ``a`` is ``sign(v)``, and with respect to ``b`` -1 where ``-1 <= v <= 1`` and 0 elsewhere.
    - unsigned, for what is never negative, as after ReLU and softmax, it is ``a * round(clip(v, 0,
      1))``. With respect to ``a`` it is 0 where ``v <= 0``, 1 where ``v >= 1`` and ``round(v) - v``
      between; with respect to ``b`` it is -1 where ``0 <= v <= 1`` and 0 elsewhere.

    Sums over a tensor are multiplied by ``1 / sqrt(N)`` as those of :class:`LearnedInteger` are.
    The gradient of ``x`` is 0 where that of ``b`` is: it does not end at the values, as in other
    formats, but ``a`` away from the threshold.

    Without learned scales they are 1 and 0.

    Args:
        signed: Whether the values are ``-a`` and ``a``; otherwise they are 0 and ``a``.

    Example:
        >>> import torch
        >>> x, scales = torch.tensor([-0.3, 0.45, 0.9]), torch.tensor([0.5, 0.4])
        >>> ElasticBinary()(x, scales), ElasticBinary(signed=False)(x, scales)
        (tensor([-0.5000,  0.5000,  0.5000]), tensor([0.0000, 0.0000, 0.5000]))
    """

    learns_scales: ClassVar[bool] = True

    signed: bool = True
    ste: str = field(default="clipped", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "signed", (True, False))

    @property
    def code_bits(self) -> int:
        return 1

    def storage_bits(self, shape: Sequence[int]) -> int:
        return super().storage_bits(shape) + 32

    def initial_scales(self) -> Tensor:
        return torch.tensor([1.0, 0.0])

    def fit_scales(self, x: Tensor) -> Tensor:
        """The mean magnitude, of least squared error for signs, twice that if unsigned; and 0.

        Twice the mean puts what is above the mean at the scale, and the rest at 0.
        """
        mean = finite_mean(x.detach())
        scale = (mean if self.signed else 2 * mean).float()
        return torch.stack([torch.where(scale > 0, scale, 1.0), torch.zeros_like(scale)])

    def _scale_and_threshold(self, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, threshold = (self.initial_scales() if scales is None else scales).to(x)
        limits = torch.finfo(x.dtype)
        # No infinity: the difference of two would be NaN.
        return scale.abs().clamp(limits.tiny, limits.max / 2), threshold.clamp(
            limits.min, limits.max
        )

    def round(self, x: Tensor) -> Tensor:
        return self._round(x, None, False)

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        scale, threshold = self._scale_and_threshold(x, scales)
        if self.signed:
            return signs(x - threshold).mul_(scale)
        return quotient(x - threshold, scale).round_().clamp_(0, 1).mul_(scale)

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        return self._limits(x, None)

    def _limits(self, x: Tensor, scales: Tensor | None) -> tuple[Bound, Bound]:
        """Where the gradient passes, which is at both sides of the threshold."""
        scale, threshold = self._scale_and_threshold(x, scales)
        return threshold - scale if self.signed else threshold, threshold + scale

    def _scales_gradient(self, x: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
        scale, threshold = self._scale_and_threshold(x, scales)
        low, high = self._limits(x, scales)
        if self.signed:
            slope = signs(x - threshold)
        else:
            v = quotient(x - threshold, scale).clamp_(0.0, 1.0)
            slope = torch.where(v < 1, v.round() - v, v)
        of_scale = slope.mul_(grad).sum() * torch.where(scales[0] < 0, -1.0, 1.0)
        passing = ((x >= low) & (x <= high)).to(x.dtype)
        return torch.stack([of_scale, passing.mul_(grad).sum().neg()])

    def _gradient_scale(self, elements: int) -> float:
        return float(max(elements, 1) ** -0.5)

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._encode(x, None)

    def _encode(self, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, _ = self._scale_and_threshold(x, scales)
        return (self._round(x, scales, False) > 0).long(), scale.reshape(1)

    def scales_shape(self, rows: int) -> tuple[int, ...]:
        return (1,)

    def steps(self, x: Tensor, scales: Tensor | None) -> Steps | None:
        if not self.signed:  # where a division is rounded before it is compared
            return None
        scale, threshold = self._scale_and_threshold(widen(x[:0]), scales)
        return Steps(threshold.reshape(1), (0, 1), scale.reshape(1))

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        assert shared is not None
        return (2 * codes - 1 if self.signed else codes).to(shared.dtype) * shared

    def _check(self, x: Tensor, scales: Tensor | None) -> None:
        super()._check(x, scales)
        if scales is not None and scales.shape != (2,):
            raise InputValueError(
                f"ElasticBinary: scales.shape={tuple(scales.shape)} is not (2,), the shape of a "
                "scale and a threshold."
            )

"""Integers whose step is learned together with the weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.base import Bound, NumberFormat
from lightning_adls.formats.checks import check_choice, check_integer
from lightning_adls.formats.codes import from_twos_complement, to_twos_complement
from lightning_adls.formats.floats import quotient
from lightning_adls.formats.means import finite_mean


@dataclass(frozen=True)
class LearnedInteger(NumberFormat):
    """Multiples of a learned step: ``k * step``, with ``k`` an integer of ``width`` bits.

    LSQ (Esser, McKinstry, Bablani, Appuswamy, Modha 2020, ICLR, arXiv:1902.08153). With
    ``-Qn <= k <= Qp`` and ``v = x / step``, the gradient of a value with respect to the step is
    ``-Qn`` where ``v <= -Qn``, ``Qp`` where ``v >= Qp`` and ``round(v) - v`` between (section 2.1,
    equation 3), and the sum over the tensor is multiplied by ``1 / sqrt(N * Qp)`` (section 2.2).
    ``N`` is the number of elements of a weight; of an activation, whose first dimension counts
    samples (``batched=True`` when called), that of one sample: the tokens of a sequence count.

    The gradient of ``x`` is 0 outside the range, as in the paper. (An input exactly at the bound
    counts as inside here, as in all formats.) Ties round to even ``k``. The step is used by
    magnitude and kept away from 0 and infinity, so that no value is NaN unless its input is.

    Without learned scales the step makes the range -1 to 1, or 0 to 1 if unsigned.

    Args:
        width: Bits of ``k``, sign included, 2 to 16.
        signed: Whether ``k`` is in two's complement; otherwise it starts at 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.3, 9.0, -9.0])
        >>> LearnedInteger(width=3)(x, torch.tensor([0.5]))
        tensor([ 0.5000,  1.5000, -2.0000])
    """

    learns_scales: ClassVar[bool] = True

    width: int = 8
    signed: bool = True
    ste: str = field(default="clipped", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "width", 2, 16, "for one bit use ResidualSign, for more Integer")
        check_choice(self, "signed", (True, False))

    @property
    def code_bits(self) -> int:
        return self.width

    def storage_bits(self, shape: Sequence[int]) -> int:
        return super().storage_bits(shape) + 32

    def scales_shape(self, rows: int) -> tuple[int, ...]:
        return (1,)

    def initial_scales(self) -> Tensor:
        return torch.full((1,), 2.0 ** (self.signed - self.width))

    def fit_scales(self, x: Tensor) -> Tensor:
        """Twice the mean magnitude over ``sqrt(Qp)`` (section 2.1)."""
        mean = finite_mean(x.detach())
        step = (2 * mean / self._range()[1] ** 0.5).float().reshape(1)
        return torch.where(step > 0, step, self.initial_scales().to(step))

    def _range(self) -> tuple[int, int]:
        """Smallest and largest ``k``: the paper's ``-Qn`` and ``Qp``."""
        bits = self.width - self.signed
        return -(2**bits) if self.signed else 0, 2**bits - 1

    def step(self, x: Tensor, scales: Tensor | None) -> Tensor:
        """The step as it is used, in the dtype of ``x``: float32 or float64; no dimension."""
        step = self.initial_scales() if scales is None else scales
        limits = torch.finfo(x.dtype)
        # Without a dimension, which a number without one would get.
        return step.to(x).abs().clamp(limits.tiny, limits.max * 2.0**-self.width).squeeze(0)

    def round(self, x: Tensor) -> Tensor:
        return self._round(x, None, False)

    def _round(self, x: Tensor, scales: Tensor | None, training: bool) -> Tensor:
        step = self.step(x, scales)
        return quotient(x, step).round_().clamp_(*self._range()).mul_(step)

    def limits(self, x: Tensor) -> tuple[Bound, Bound]:
        return self._limits(x, None)

    def _limits(self, x: Tensor, scales: Tensor | None) -> tuple[Bound, Bound]:
        step, (low, high) = self.step(x, scales), self._range()
        return step * low, step * high

    def _scales_gradient(self, x: Tensor, scales: Tensor, grad: Tensor) -> Tensor:
        low, high = self._range()
        v = quotient(x, self.step(x, scales))
        # v between the bounds, else 0: eager torch takes ten times as long to select by a mask.
        between = torch.ops.aten.hardtanh_backward(v, v, low, high)
        slope = v.clamp_(low, high).round_().sub_(between)
        return slope.mul_(grad).sum().reshape(1) * torch.where(scales < 0, -1.0, 1.0)

    def _gradient_scale(self, elements: int) -> float:
        return float((max(elements, 1) * self._range()[1]) ** -0.5)

    def to_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._encode(x, None)

    def _encode(self, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        step = self.step(x, scales)
        k = quotient(x, step).round_().clamp_(*self._range()).long()
        return to_twos_complement(k, self.width), step.reshape(1)

    def from_codes(self, codes: Tensor, shared: Tensor | None) -> Tensor:
        assert shared is not None
        k = from_twos_complement(codes, self.width) if self.signed else codes
        return k.to(shared.dtype) * shared

    def _check(self, x: Tensor, scales: Tensor | None) -> None:
        super()._check(x, scales)
        if scales is not None and scales.shape != (1,):
            raise InputValueError(
                f"LearnedInteger: scales.shape={tuple(scales.shape)} is not (1,), "
                "the shape of a step."
            )

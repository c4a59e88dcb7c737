"""What rounding a tensor does to first order, in many formats for little more than in one.

To round is to apply a step function. Elements are sorted into bins that are so fine that most
formats take all of a bin to one value. Gradient times rounded element then has one sum for each
bin, whatever the format, and a format costs a product over bins in place of many passes over
elements. Nothing is approximated: where a bin is not rounded to one value, elements are.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adls.formats import NumberFormat
from lightning_adls.formats.base import PART, widen
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import BlockSize, block_max, split
from lightning_adls.formats.floats import floor_log2, floor_power, layout
from lightning_adls.formats.host import is_finite

# Bins tell apart so many digits after the leading one, and whether any others follow: as finely as
# the boundaries between numbers of eight bits, sign included, lie.
_DIGITS = 7
# So many powers of two below the largest magnitude are told apart, or a few less. What is smaller
# is one bin.
_POWERS = 20
_BINS = 4 * (_POWERS + 1) << _DIGITS  # numbers and what lies between, of both signs

# So many tensors share a call of an operator.
_MOST_TENSORS = 64

# By themselves, or after they are divided by the power of two of such a block.
_Sorting = BlockSize | Literal["elements"]


class _Powers(NamedTuple):
    """Exponents of the smallest and largest power of two that a tensor is divided by."""

    low: int
    high: int


class _Steps(NamedTuple):
    """What a format makes of bins: of the first ones 0, of the others ``values``, float64.

    It rounds those that are ``unclear`` to several values.
    """

    zeros: int
    values: Tensor
    unclear: Tensor | None


class Effects:
    """First-order effects of rounding; keeps what formats make of bins for the next tensors."""

    def __init__(self) -> None:
        self._steps: dict[object, _Steps] = {}
        self._scales: dict[object, float | None] = {}

    def of(self, x: Tensor, grads: Tensor, formats: Sequence[NumberFormat]) -> list[Tensor]:
        """For each format what rounding some tensors does to first order.

        Args:
            x: Floating point, ``(tensors, ...)``: each is rounded by itself.
            grads: Several gradients of each, ``(tensors, gradients, ...)``.
            formats: Those that learn scales have them as a layer has before it is trained.

        Returns:
            float64, ``(tensors, gradients)``. What is found for a tensor and a format does not
            depend on the other formats.
        """
        at_once = max(1, min(_MOST_TENSORS, PART // max(x[0].numel(), 1)))
        parts = zip(x.split(at_once), grads.split(at_once), strict=True)
        found = [self._of_few(each, of_each, formats) for each, of_each in parts]
        return [torch.cat(effects) for effects in zip(*found, strict=True)]

    def _of_few(self, x: Tensor, grads: Tensor, formats: Sequence[NumberFormat]) -> list[Tensor]:
        rows = grads.flatten(2).double()
        unrounded = (rows @ x.flatten(1, -1).double()[..., None])[..., 0]
        # Elsewhere than on a CPU the order of sums is left to chance.
        sorts = x.numel() > 0 and is_finite(widen(x))
        elements = _Elements(widen(x)) if sorts else None
        bins: dict[_Sorting, _Bins] = {}
        found = []
        for fmt in formats:
            sorting = _sorting(fmt)
            if elements is None or sorting is None:
                effects, left = torch.zeros_like(unrounded), list(range(len(x)))
            else:
                if sorting not in bins:
                    bins[sorting] = _Bins(elements, rows, sorting)
                effects, left = self._of_bins(fmt, bins[sorting], unrounded)
            for place in left:
                effects[place] = rows[place] @ _error(fmt, x[place]).flatten().double()
            found.append(effects)
        return found

    def _of_bins(
        self, fmt: NumberFormat, bins: "_Bins", unrounded: Tensor
    ) -> tuple[Tensor, list[int]]:
        """Effects, and the places of tensors that have a bin which is rounded to several values."""
        dtype, scale = bins.dtype, None
        if isinstance(fmt, BlockFormat):
            key: object = (fmt, bins.powers, dtype)
            if key not in self._scales:
                self._scales[key] = _scale(fmt, bins.powers, dtype)
            scale = self._scales[key]
            if scale is None:
                return torch.zeros_like(unrounded), list(range(len(unrounded)))
        key = (fmt, scale, bins.top, dtype)
        if key not in self._steps:
            self._steps[key] = _steps(fmt, scale, bins.top, dtype)
        steps = self._steps[key]
        left: list[int] = []
        if steps.unclear is not None:
            left = bins.occupied[:, steps.unclear].any(1).nonzero().flatten().tolist()
        return bins.sums[..., steps.zeros :] @ steps.values - unrounded, left


def _sorting(fmt: NumberFormat) -> _Sorting | None:
    """How elements are sorted for a format; None where that does not decide what they become."""
    if isinstance(fmt, BlockFormat):
        return fmt.block_size if fmt.scales_by_exponent else None
    return "elements" if fmt.rounds_elements_apart else None


class _Elements:
    """Numbers of few digits that elements are, or lie above.

    Args:
        x: float32 or float64, finite, ``(tensors, ...)``.
    """

    def __init__(self, x: Tensor) -> None:
        # Blocks have rows, of which a vector is one.
        self.x = x if x.ndim > 2 else x.reshape(len(x), 1, -1)
        digits, _, integer = layout(x.dtype)
        shift = digits - _DIGITS
        bits = self.x.abs().view(integer)
        # Rounding down and up gives twice the number, and one more if other digits follow. Of two
        # neighbours that are made of that one is below zero.
        number = (bits >> shift).add_((bits + ((1 << shift) - 1)) >> shift).mul_(2)
        self.number = number.sub_(self.x.view(integer) >> torch.iinfo(integer).bits - 1)


class _Bins:
    """The elements of tensors in bins, and sums of gradients over each.

    An element times a power of two is the same number of digits some bins further.

    Args:
        elements: Of the tensors.
        rows: Gradients, float64, ``(tensors, gradients, elements)``.
        sorting: For which formats.
    """

    def __init__(self, elements: _Elements, rows: Tensor, sorting: _Sorting) -> None:
        x, number = elements.x, elements.number
        _, bias, integer = layout(x.dtype)
        self.dtype, self.powers = x.dtype, _Powers(0, 0)
        powers: Tensor | None = None
        if sorting == "elements":
            largest = int(floor_log2(x.abs().amax()))
            # A multiple of four, so that most tensors have bins in common.
            self.top = min(max(-(-largest // 4) * 4, _POWERS + 2 - bias), bias)
            number = number - _first(self.top, bias)
        else:
            self.top = 0
            largest_of = block_max(split(x, sorting))
            # Blocks without any larger number, 2**-105 in float32, count as zeros.
            least = _POWERS + 2 - bias
            powers = floor_power(largest_of, least, bias)
            some = powers[largest_of >= 2.0**least]
            if some.numel():
                low, high = floor_log2(torch.stack(some.aminmax())).tolist()
                self.powers = _Powers(low, high)
            first = (floor_log2(powers) * (4 << _DIGITS) + _first(0, bias)).to(integer)
            number = split(number, sorting) - first
        number = number.clamp_(min=0).flatten(1)  # what is small is one bin, of both signs
        number += torch.arange(len(x), dtype=integer)[:, None] * _BINS
        self._index = number.flatten()
        sums = []
        for grad in rows.unbind(1):  # one by one, because weights have many
            if powers is not None:
                assert sorting != "elements"
                grad = split(grad.view(x.shape), sorting) * powers
            sums.append(self._index.bincount(grad.flatten(), minlength=len(x) * _BINS))
        self.sums = torch.stack([each.view(len(x), _BINS) for each in sums], 1)

    @cached_property
    def occupied(self) -> Tensor:
        """Which bins of each tensor hold an element, ``(tensors, bins)``, bool."""
        return (self._index.bincount(minlength=self.sums[:, 0].numel()) > 0).view(-1, _BINS)


def _first(top: int, bias: int) -> int:
    """The number of the first bin, where magnitudes are below ``2**(top + 1)``."""
    return 4 * (top - _POWERS + bias) << _DIGITS


@lru_cache(maxsize=64)
def _bounds(top: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The bounds of each bin, in either order."""
    digits, bias, integer = layout(dtype)
    shift = digits - _DIGITS
    numbers = torch.arange(_BINS // 4, dtype=integer) + ((top - _POWERS + bias) << _DIGITS)
    exact = numbers << shift
    low = torch.stack([exact, exact + 1], 1).flatten()
    high = torch.stack([exact, exact + ((1 << shift) - 1)], 1).flatten()
    smallest, largest = (
        torch.stack([bits.view(dtype), -bits.view(dtype)], 1).flatten() for bits in (low, high)
    )
    smallest[0], largest[0] = -largest[0], largest[0]  # and all between
    return smallest, largest


def _scale(fmt: BlockFormat, powers: _Powers, dtype: torch.dtype) -> float | None:
    """What blocks have for a scale, as part of their power of two; None if not all have the same.

    Scales are limited to a range. What is not limited at both ends is not between them.
    """
    ends = torch.tensor([2.0**power for power in powers], dtype=dtype)
    first, last = (fmt.scale(ends) / ends).tolist()
    return float(first) if first == last else None


@torch.no_grad()
def _steps(fmt: NumberFormat, scale: float | None, top: int, dtype: torch.dtype) -> _Steps:
    bounds = _bounds(top, dtype)
    if isinstance(fmt, BlockFormat):
        assert scale is not None
        shared = bounds[0].new_full((1, 1, 1, 1), scale)
        made = [fmt.round_blocks(each.view(1, 1, 1, -1), shared).flatten() for each in bounds]
    else:
        made = [fmt.round(each) for each in bounds]
    # To round is monotonic: what has one value at both ends of a bin has it between them.
    unclear = made[0] != made[1]
    zeros = int((made[0] != 0).nonzero()[:1].sum())  # 0 if it makes nothing a zero
    return _Steps(zeros, made[0][zeros:].double(), unclear if unclear.any() else None)


def _error(fmt: NumberFormat, x: Tensor) -> Tensor:
    """What rounding adds; with scales as a layer has them before it is trained."""
    scales = fmt.fit_scales(x)
    with torch.no_grad():
        return widen(fmt(x, fmt.initial_scales() if scales is None else scales)) - widen(x)

"""What rounding a tensor does to first order, in many formats for little more than in one.

To round is to apply a step function. Elements are sorted into bins that are so fine that most
formats take all of a bin to one value. Gradient times rounded element then has one sum for each
bin, whatever the format; bins that no format tells apart are one. A format costs a column of a
product of matrices, in place of many passes over elements. Nothing is approximated: where a bin is
not rounded to one value, elements are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
# the boundaries between numbers of nine bits, sign included, lie.
_DIGITS = 8
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


@dataclass(frozen=True, eq=False)
class _Alike:
    """Formats that elements are sorted for in the same way, and their places among all."""

    sorting: _Sorting
    formats: tuple[NumberFormat, ...]
    places: list[int]


class _Steps(NamedTuple):
    """What some formats make of bins.

    Args:
        groups: Of each bin the group it is in: none of the formats tells its bins apart.
        values: What the formats make of each group, float64, ``(groups, formats)``.
        unclear: Of each format the bins that it rounds to several values, if there are any.
    """

    groups: Tensor
    values: Tensor
    unclear: list[Tensor | None]


class Effects:
    """First-order effects of rounding; keeps what formats make of bins for the next tensors."""

    def __init__(self) -> None:
        self._alike: dict[tuple[NumberFormat, ...], list[_Alike]] = {}
        self._scales: dict[object, tuple[float | None, ...]] = {}
        self._steps: dict[object, _Steps] = {}

    def of(self, x: Tensor, grads: Tensor, formats: Sequence[NumberFormat]) -> Tensor:
        """For each format what rounding some tensors does to first order.

        Args:
            x: Floating point, ``(tensors, ...)``: each is rounded by itself.
            grads: Several gradients of each, ``(tensors, gradients, ...)``.
            formats: Those that learn scales have them as a layer has before it is trained.

        Returns:
            float64, ``(tensors, gradients, formats)``. What is found for a tensor and a format does
            not depend on the other formats, but for the last digits.
        """
        at_once = max(1, min(_MOST_TENSORS, PART // max(x[0].numel(), 1)))
        parts = zip(x.split(at_once), grads.split(at_once), strict=True)
        return torch.cat([self._of_few(each, of_each, formats) for each, of_each in parts])

    def _of_few(self, x: Tensor, grads: Tensor, formats: Sequence[NumberFormat]) -> Tensor:
        rows = grads.flatten(2).double()
        unrounded = rows @ x.flatten(1, -1).double()[..., None]
        effects = rows.new_zeros(*rows.shape[:2], len(formats))
        everywhere = list(range(len(x)))
        left = [everywhere] * len(formats)
        # Elsewhere than on a CPU the order of sums is left to chance.
        if x.numel() and is_finite(widen(x)):
            elements = _Elements(widen(x))
            for alike in self._sorted(tuple(formats)):
                bins = _Bins(elements, alike.sorting)
                steps = self._made(alike, bins)
                effects[..., alike.places] = (bins.sums(rows, steps) @ steps.values).sub_(unrounded)
                for place, unclear in zip(alike.places, steps.unclear, strict=True):
                    left[place] = bins.holding(unclear)
        for place, tensors in enumerate(left):
            for tensor in tensors:
                error = _error(formats[place], x[tensor]).flatten().double()
                effects[tensor, :, place] = rows[tensor] @ error
        return effects

    def _sorted(self, formats: tuple[NumberFormat, ...]) -> list[_Alike]:
        if formats not in self._alike:
            places: dict[_Sorting, list[int]] = {}
            for place, fmt in enumerate(formats):
                if (sorting := _sorting(fmt)) is not None:
                    places.setdefault(sorting, []).append(place)
            self._alike[formats] = [
                _Alike(sorting, tuple(formats[place] for place in some), some)
                for sorting, some in places.items()
            ]
        return self._alike[formats]

    def _made(self, alike: _Alike, bins: "_Bins") -> _Steps:
        of_powers = (alike, bins.powers, bins.dtype)
        if of_powers not in self._scales:
            self._scales[of_powers] = tuple(
                _scale(fmt, bins.powers, bins.dtype) for fmt in alike.formats
            )
        scales = self._scales[of_powers]
        key = (alike, scales, bins.top, bins.dtype)
        if key not in self._steps:
            self._steps[key] = _steps(alike.formats, scales, bins.top, bins.dtype)
        return self._steps[key]


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
    """The elements of tensors in bins.

    An element times a power of two is the same number of digits some bins further.

    Args:
        elements: Of the tensors.
        sorting: For which formats.
    """

    def __init__(self, elements: _Elements, sorting: _Sorting) -> None:
        x, number = elements.x, elements.number
        _, bias, integer = layout(x.dtype)
        self.dtype, self.powers, self.top = x.dtype, _Powers(0, 0), 0
        self._shape, self._sorting = x.shape, sorting
        self._power_of: Tensor | None = None
        if sorting == "elements":
            largest = int(floor_log2(x.abs().amax()))
            # A multiple of four, so that most tensors have bins in common.
            self.top = min(max(-(-largest // 4) * 4, _POWERS + 2 - bias), bias)
            number = number - _first(self.top, bias)
        else:
            largest_of = block_max(split(x, sorting))
            # Blocks without any larger number, 2**-105 in float32, count as zeros.
            least = _POWERS + 2 - bias
            self._power_of = floor_power(largest_of, least, bias)
            some = self._power_of[largest_of >= 2.0**least]
            if some.numel():
                low, high = floor_log2(torch.stack(some.aminmax())).tolist()
                self.powers = _Powers(low, high)
            first = (floor_log2(self._power_of) * (4 << _DIGITS) + _first(0, bias)).to(integer)
            number = split(number, sorting) - first
        self._number = number.clamp_(min=0).flatten(1)  # what is small is one bin, of both signs

    def sums(self, rows: Tensor, steps: _Steps) -> Tensor:
        """Sums of gradients over each group, in units of the power of two of the block.

        Args:
            rows: Gradients, float64, ``(tensors, gradients, elements)``.
            steps: Of the groups.

        Returns:
            float64, ``(tensors, gradients, groups)``.
        """
        count, tensors = len(steps.values), len(rows)
        index = steps.groups.index_select(0, self._number.flatten()).view(tensors, -1)
        index = index.add_(torch.arange(tensors, dtype=index.dtype)[:, None] * count).flatten()
        sums = []
        for grad in rows.unbind(1):  # one by one, because weights have many
            if self._power_of is not None:
                assert self._sorting != "elements"
                grad = split(grad.view(self._shape), self._sorting) * self._power_of
            sums.append(index.bincount(grad.flatten(), minlength=tensors * count))
        return torch.stack([each.view(tensors, count) for each in sums], 1)

    def holding(self, some: Tensor | None) -> list[int]:
        """The places of tensors that have an element in some of the bins."""
        return [] if some is None else some[self._number].any(1).nonzero().flatten().tolist()


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


def _scale(fmt: NumberFormat, powers: _Powers, dtype: torch.dtype) -> float | None:
    """What blocks have for a scale, as part of their power of two; None if not all have the same.

    Scales are limited to a range. What is not limited at both ends is not between them. Of a format
    without blocks it is 1.
    """
    if not isinstance(fmt, BlockFormat):
        return 1.0
    ends = torch.tensor([2.0**power for power in powers], dtype=dtype)
    first, last = (fmt.scale(ends) / ends).tolist()
    return float(first) if first == last else None


@torch.no_grad()
def _steps(
    formats: Sequence[NumberFormat],
    scales: Sequence[float | None],
    top: int,
    dtype: torch.dtype,
) -> _Steps:
    bounds = _bounds(top, dtype)
    made = [_rounded(fmt, scale, *bounds) for fmt, scale in zip(formats, scales, strict=True)]
    # Bins of both signs lie side by side.
    pairs = torch.stack([low for low, _ in made], 1).double().view(_BINS // 2, 2, -1)
    begins = torch.ones(len(pairs), dtype=torch.bool)
    begins[1:] = (pairs[1:] != pairs[:-1]).flatten(1).any(1)
    number = begins.cumsum(0, dtype=torch.int32).sub_(1).mul_(2)
    # To round is monotonic: what has one value at both ends of a bin has it between them.
    unclear = [low != high for low, high in made]
    return _Steps(
        torch.stack([number, number + 1], 1).flatten(),
        pairs[begins].flatten(0, 1),
        [some if some.any() else None for some in unclear],
    )


def _rounded(
    fmt: NumberFormat, scale: float | None, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """What becomes of the bounds of each bin; they differ where blocks have several scales."""
    if scale is None:
        return torch.zeros_like(low), torch.ones_like(low)
    if not isinstance(fmt, BlockFormat):
        return fmt.round(low), fmt.round(high)
    shared = low.new_full((1, 1, 1, 1), scale)
    found = [fmt.round_blocks(each.view(1, 1, 1, -1), shared).flatten() for each in (low, high)]
    return found[0], found[1]


def _error(fmt: NumberFormat, x: Tensor) -> Tensor:
    """What rounding adds; with scales as a layer has them before it is trained."""
    scales = fmt.fit_scales(x)
    with torch.no_grad():
        return widen(fmt(x, fmt.initial_scales() if scales is None else scales)) - widen(x)

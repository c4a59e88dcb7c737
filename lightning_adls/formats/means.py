"""Mean magnitudes of large tensors, a part at a time: no copy of the tensor is made."""

import torch
from torch import Tensor

from lightning_adls.formats.floats import finite_magnitude
from lightning_adls.formats.host import is_readable

_PART = 1 << 16  # elements, of which several copies stay in the cache of a CPU's core


def finite_mean(x: Tensor) -> Tensor:
    """Mean of ``abs(x)`` over finite elements, or 0 if there are none; float64, no dimension."""
    sums = [_sums(part, (0,), None) for part in x.reshape(-1).split(_at_once(x))]
    total, count = (torch.stack(each).sum() for each in zip(*sums, strict=True))
    return total / count.clamp(min=1)


def mean_in_parts(x: Tensor, by_rows: bool, above: Tensor | None = None) -> Tensor:
    """Mean of ``abs(x)`` over finite elements of a matrix, or 0 where there are none.

    Args:
        x: Floating point, shape ``(rows, columns)``.
        by_rows: Whether each row has a mean.
        above: Only magnitudes above it count; of the shape that is returned.

    Returns:
        Float32, or float64 if ``x`` is; shape ``(rows, 1)`` or ``(1, 1)``.
    """
    dims = (1,) if by_rows else (0, 1)
    sums = []
    for rows in torch.arange(len(x)).split(max(_at_once(x) // max(x.shape[1], 1), 1)):
        part = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        least = above[part] if above is not None and by_rows else above
        sums.append(_sums(x[part], dims, least))
    totals, counts = (torch.cat(each) for each in zip(*sums, strict=True))
    if not by_rows:
        totals, counts = totals.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    return (totals / counts.clamp(min=1)).to(_wide(x[:0]).dtype)


def _at_once(x: Tensor) -> int:
    # Float64 as a whole: its sums depend in their last bits on the order.
    return _PART if x.device.type == "cpu" and x.dtype != torch.float64 else max(x.numel(), 1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _sums(x: Tensor, dims: tuple[int, ...], above: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and number of the magnitudes that count, float64, with the other dimensions."""
    x = _wide(x)
    if is_readable(x):
        magnitude = x.abs()
        counted = None if above is None else magnitude.clone().gt_(above)
        sums = _sums_of(magnitude, counted, dims)
        if bool(sums[0].isfinite().all()):  # what is not finite leaves no finite sum
            return sums
    magnitude, counted = finite_magnitude(x)
    return _sums_of(magnitude, counted if above is None else magnitude.clone().gt_(above), dims)


def _sums_of(
    magnitude: Tensor, counted: Tensor | None, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    keep = magnitude.ndim > 1
    kept = magnitude if counted is None else magnitude.mul_(counted)
    total = kept.sum(dims, keepdim=keep, dtype=torch.float64)
    if counted is None:
        return total, torch.full_like(total, magnitude.numel() // max(total.numel(), 1))
    # Float32 counts up to 2**24, and sums several times as fast.
    exact = torch.float64 if magnitude.numel() > 2**24 else magnitude.dtype
    return total, counted.sum(dims, keepdim=keep, dtype=exact).double()

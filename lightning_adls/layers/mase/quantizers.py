"""How MASE rounds: what ``chop/nn/quantizers`` computes, operation by operation.

Formats are the standard ones, their parameters have the same names; what is computed is not. The
functions here take float32 or float64 and return it. ``log2`` is MASE's, in that dtype and not
exact, because it decides what becomes of numbers next to a power of two; ``exp2`` of the whole
numbers here is exact on a CPU, as the powers that MASE computes are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_adls.formats import (
    Binary,
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Integer,
    Log,
    MinifloatDenorm,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
)
from lightning_adls.formats.base import narrow, widen
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import merge, split
from lightning_adls.formats.floats import keep_nan

# Magnitudes up to this stay as they are; this keeps log2 from zero.
_NEAR_ZERO, _EPSILON = 1e-8, 1e-9


def integer(x: Tensor, fmt: Integer) -> Tensor:
    """Fixed point, to nearest or down."""
    half, scale = 2 ** (fmt.width - 1), 2.0**fmt.frac_width
    scaled = x * scale
    whole = scaled.round_() if fmt.rounding == "nearest" else scaled.floor_()
    return whole.clamp_(-half, half - 1).div_(scale)


def minifloat_denorm(x: Tensor, fmt: MinifloatDenorm) -> Tensor:
    """Minifloats without a leading one: a power of two loses its last bit."""
    steps = 2 ** (fmt.width - fmt.exponent_width - 1)
    bias = _bias(fmt.exponent_bias, fmt.exponent_width)
    magnitude = x.abs()
    exponent = (magnitude + _EPSILON).log2_().ceil_()
    power = torch.exp2(exponent.clamp_(-bias, 2**fmt.exponent_width - 1 - bias))
    whole = magnitude.div_(power).mul_(steps).round_().clamp_(0, steps - 1)
    return _signed(power.mul_(whole.div_(steps)), x)


def minifloat_ieee(x: Tensor, fmt: MinifloatIEEE) -> Tensor:
    """Minifloats with a leading one, without a carry into the next binade."""
    bias = _bias(fmt.exponent_bias, fmt.exponent_width)
    return _minifloat_ieee(x, fmt.width, fmt.exponent_width, bias)


def _minifloat_ieee(x: Tensor, width: int, exponent_width: int, bias: int | Tensor) -> Tensor:
    steps = 2 ** (width - exponent_width - 1)
    magnitude = x.abs()
    exponent = (magnitude + _EPSILON).log2_().floor_()
    exponent = exponent.clamp_(-bias, 2**exponent_width - 1 - bias)
    power = torch.exp2(exponent)
    # 1 for normal numbers, 0 for those of the lowest exponent: these have twice the step.
    normal = exponent.add_(bias).clamp_(max=1)
    whole = magnitude.div_(power).mul_(steps)
    whole.mul_(normal * 0.5 + 0.5).sub_(normal * steps).round_().clamp_(0, steps - 1)
    mantissa = whole.div_(steps).mul_(2 - normal).add_(normal)
    return _signed(power.mul_(mantissa), x)


def log(x: Tensor, fmt: Log) -> Tensor:
    """Powers of two, without a zero."""
    bias = 2 ** (fmt.width - 2) - 1 if fmt.exponent_bias is None else fmt.exponent_bias
    return _log(x, fmt.width, bias, 2.0**-bias)


def _log(x: Tensor, width: int, bias: int | Tensor, smallest: float | Tensor) -> Tensor:
    shift = smallest * 0.1
    exponent = x.abs().add_(shift).log2_().round_()
    exponent = exponent.clamp_(-bias, 2 ** (width - 1) - 1 - bias)
    return (x + shift).sign_().mul_(torch.exp2(exponent))


def block_fp(blocks: Tensor, fmt: BlockFP) -> Tensor:
    """Blocks with a shared exponent: the largest element may lose its last bit."""
    steps, bias = 2 ** (fmt.width - 1), _bias(fmt.exponent_bias, fmt.exponent_width)
    exponent = _block_max(blocks).log2_().ceil_()
    power = torch.exp2(exponent.clamp_(-bias, 2**fmt.exponent_width - 1 - bias))
    whole = blocks.abs().add_(_EPSILON).div_(power).mul_(steps).round_().clamp_(0, steps - 1)
    return _signed(whole.div_(steps).mul_(power), blocks)


def block_minifloat(blocks: Tensor, fmt: BlockMinifloat) -> Tensor:
    """Minifloats with a shared bias of the wrong sign: large blocks get a small range."""
    bias = _block_max(blocks).log2_().floor_().clamp_(0, 2**fmt.exponent_bias_width - 1)
    return _minifloat_ieee(blocks, fmt.width, fmt.exponent_width, bias)


def block_log(blocks: Tensor, fmt: BlockLog) -> Tensor:
    """Powers of two with a shared bias, without a zero."""
    top = 2 ** (fmt.width - 1) - 1
    bias = (top - _block_max(blocks).log2_().ceil_()).clamp_(0, 2**fmt.exponent_bias_width - 1)
    return _log(blocks, fmt.width, bias, torch.exp2(-bias))


def mxint(x: Tensor, fmt: MXInt) -> Tensor:
    """Integers with a shared scale; blocks run on from row to row where these do not divide."""
    size = fmt.block_size[1] if isinstance(fmt.block_size, tuple) else fmt.block_size
    blocks, steps = split(x.flatten(), size), 2 ** (fmt.width - 1)
    largest = blocks.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)
    power = torch.exp2(largest.log2_().ceil_())
    whole = (blocks / power).mul_(steps).round_().clamp_(-steps, steps - 1)
    return merge(whole.div_(steps).mul_(power), x.flatten().shape).view(x.shape)


def binary(x: Tensor, fmt: Binary, training: bool) -> Tensor:
    """One or minus one, whatever the format's scale; in training at random if it says so."""
    if fmt.stochastic and training:
        positive = ((x + 1) / 2).clamp_(0, 1) >= torch.rand_like(x)
    else:
        positive = x >= 0
    return positive.to(x.dtype).mul_(2).sub_(1)


_ROUND: dict[type[NumberFormat], Callable[[Tensor, Any], Tensor]] = {
    Integer: integer,
    MinifloatDenorm: minifloat_denorm,
    MinifloatIEEE: minifloat_ieee,
    Log: log,
    MXInt: mxint,
}
_ROUND_BLOCKS: dict[type[NumberFormat], Callable[[Tensor, Any], Tensor]] = {
    BlockFP: block_fp,
    BlockMinifloat: block_minifloat,
    BlockLog: block_log,
}


def _round(x: Tensor, fmt: NumberFormat, batched: bool, training: bool) -> Tensor:
    if isinstance(fmt, Binary):
        return binary(x, fmt, training)
    if type(fmt) in _ROUND:
        return _ROUND[type(fmt)](x, fmt)
    assert isinstance(fmt, BlockFormat)
    # MASE cuts a batch into single samples first.
    rows = x.unsqueeze(-2) if batched and x.ndim == 2 else x
    blocks = split(rows, fmt.block_size)
    return merge(_ROUND_BLOCKS[type(fmt)](blocks, fmt), rows.shape).view(x.shape)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fmt: NumberFormat, batched: bool, training: bool) -> Tensor:
        return narrow(_round(widen(x), fmt, batched, training), x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad, None, None, None


# Under a name of its own because torch leaves `apply` untyped.
_straight_through: Callable[..., Tensor] = _StraightThrough.apply


def quantize(
    x: Tensor, fmt: NumberFormat, *, batched: bool = False, training: bool = False
) -> Tensor:
    """Round ``x`` to ``fmt`` as MASE does; the gradient passes unchanged.

    Args:
        x: Floating point, any shape; computed in float32 (float64 stays) and returned in its dtype.
        fmt: Of those that MASE has a linear layer for, but Ternary, MXFP and ResidualSign.
        batched: Whether the first of two or more dimensions counts samples; no block then holds
            several of them.
        training: Whether a stochastic ``Binary`` rounds at random.

    Example:
        >>> quantize(torch.tensor([0.4, 1.0, 1.9]), MinifloatDenorm(width=8, exponent_width=4))
        tensor([0.3750, 0.8750, 1.7500])
    """
    return _straight_through(x, fmt, batched, training)


class _HardTanhSign(torch.autograd.Function):
    # The sign, with the gradient of a hard tanh: 1 from -1 to 1, the ends included.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return keep_nan(x.sign(), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad.masked_fill(~(x.abs() <= 1), 0.0)  # 0 for NaN, too


_hard_tanh_sign: Callable[[Tensor], Tensor] = _HardTanhSign.apply


def residual_sign(x: Tensor, means: Tensor) -> Tensor:
    """A sum of signs, each of what those before it left over; the sign of 0 is 0.

    Args:
        x: Floating point, any shape.
        means: Magnitudes of the signs, shape ``(levels,)``; their sign does not matter. They and
            ``x`` get the gradient of the sum, in which a sign has that of a hard tanh.

    Example:
        >>> residual_sign(torch.tensor([0.0, 0.5, -3.0]), torch.tensor([0.75, 0.25]))
        tensor([ 0.0000,  0.5000, -1.0000])
    """
    residual = widen(x)
    total = torch.zeros_like(residual)
    for mean in means.abs().to(residual.dtype):
        part = _hard_tanh_sign(residual) * mean
        total, residual = total + part, residual - part
    return narrow(total, x.dtype)


def _bias(exponent_bias: int | None, exponent_width: int) -> int:
    return 2 ** (exponent_width - 1) - 1 if exponent_bias is None else exponent_bias


def _signed(magnitude: Tensor, x: Tensor) -> Tensor:
    """Rounded magnitudes, changed in place, with the signs of ``x``, which stays where it is tiny.

    What becomes of an infinity is NaN, as in MASE.
    """
    kept = torch.nn.functional.hardshrink(x, _NEAR_ZERO)
    return magnitude.mul_(kept.sign()).add_(x - kept)


def _block_max(blocks: Tensor) -> Tensor:
    """Largest magnitude of each block; that of a zero block is the smallest of the others."""
    largest = blocks.abs().amax((-3, -1), keepdim=True)
    if not largest.numel():
        return largest
    zero = largest == 0
    smallest = largest.masked_fill(zero, torch.inf).amin().masked_fill(zero.all(), 1.0)
    return torch.where(zero, smallest, largest)

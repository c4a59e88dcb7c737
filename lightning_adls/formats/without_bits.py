"""What ``floats`` reads from the bits of a float, by exact arithmetic instead.

For ONNX, which has no operator that takes a float for an integer. The results are the same; only
the sign of a zero may differ.
"""

import math

import torch
from torch import Tensor


def are_bits_unknown() -> bool:
    """Whether what is traced becomes an ONNX graph."""
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """As in ``floats``: looked up, because runtimes may compute powers that are off by a bit."""
    powers = [math.ldexp(1.0, e) for e in range(-1023, 1024)]
    table = torch.tensor(powers, dtype=torch.float64, device=exponent.device)
    return table[exponent + 1023].to(dtype)


def floor_log2(x: Tensor) -> Tensor:
    """As in ``floats``."""
    x = x.double()
    # A logarithm that was rounded is at most one off.
    guess = x.log2().floor().long().clamp(-1022, 1023)
    lower = guess - (power_of_two(guess, x.dtype) > x).long()
    return lower + (power_of_two(lower, x.dtype) * 2 <= x).long()


def round_log2(x: Tensor) -> Tensor:
    """As in ``log``."""
    exponent = floor_log2(x)
    # The first float64 above the square root of two; a tensor, because numbers become float32.
    root = torch.tensor((math.isqrt(2 << 104) + 1) / (1 << 52), dtype=torch.float64)
    return exponent + (x.double() >= power_of_two(exponent, torch.float64) * root).long()


def finite_magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """As in ``floats``."""
    finite = x.isfinite()
    return x.abs().where(finite, 0.0), finite.to(x.dtype)


def keep_nan(rounded: Tensor, x: Tensor) -> Tensor:
    """As in ``floats``, out of place."""
    return torch.where(x.isnan(), x, rounded)


def with_sign_of(magnitude: Tensor, x: Tensor) -> Tensor:
    """As in ``floats``."""
    return torch.where(x < 0, -magnitude, magnitude)


def within(x: Tensor, limit: float) -> Tensor:
    """As in ``floats``, out of place; in float64 by tensors, because numbers become float32."""
    if x.dtype == torch.float32:
        return x.clamp(-limit, limit)
    bound = torch.tensor(limit, dtype=x.dtype)
    # Not `clamp`, of whose bounds the optimiser of onnxscript 0.7 loses one.
    below = torch.where(x > bound, bound, x)
    return torch.where(below < -bound, -bound, below)

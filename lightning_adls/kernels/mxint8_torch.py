"""Dequantising MXINT8 in plain torch: as the definition says, and as the CPU does it fast."""

import torch
from torch import Tensor

from lightning_adls.formats.base import narrow
from lightning_adls.formats.floats import power_of_two

BLOCK_SIZE = 32
EXPONENT_BIAS = 127  # E8M0: exponent 0 is 2**-127
_NAN = 255


def _scales(exponents: Tensor, fraction_bits: int, dtype: torch.dtype) -> Tensor:
    """``2**(exponent - 127 - fraction_bits)``, NaN for exponent 255."""
    scales = power_of_two(exponents.long() - (EXPONENT_BIAS + fraction_bits), dtype)
    return scales.masked_fill_(exponents == _NAN, torch.nan)


def dequantize_reference(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """The definition, in float64: what every other way is compared with.

    Takes and returns what :func:`lightning_adls.kernels.dequantize` does.
    """
    scales = _scales(exponents, 0, torch.float64).repeat_interleave(BLOCK_SIZE, dim=-1)
    return narrow(codes.double() / 64 * scales[..., : codes.shape[-1]], dtype)


def dequantize_cpu(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Two passes, a conversion and a multiplication in place, both vectorised by torch.

    One pass, ``codes * scales`` in mixed types, makes torch convert the scales at full size too.
    """
    # Products are exact in all but float16, which cannot hold every scale.
    wide = torch.float32 if dtype == torch.float16 else dtype
    scales = _scales(exponents, 6, wide)
    values = codes.to(wide, memory_format=torch.contiguous_format)
    columns = codes.shape[-1]
    blocks = columns // BLOCK_SIZE
    whole = values[..., : blocks * BLOCK_SIZE].unflatten(-1, (blocks, BLOCK_SIZE))
    whole.mul_(scales[..., :blocks, None])
    if columns % BLOCK_SIZE:
        values[..., blocks * BLOCK_SIZE :].mul_(scales[..., blocks:])
    return narrow(values, dtype)

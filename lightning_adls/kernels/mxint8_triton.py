"""Dequantising MXINT8 by a Triton kernel: one read of the packed tensor, one write of the result.

Imported only when it is used, and without an error where there is no Triton, which comes with the
CUDA builds of torch alone.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_adls.errors import MissingPackageError

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:
    triton, constexpr = None, Any

# Blocks of 32 that a program unpacks. 4096 elements are 32 for each thread of four warps.
_BLOCKS = 128


# Without types: Triton looks up those of the arguments, too, among what a kernel may use.
def _dequantize_kernel(  # type: ignore[no-untyped-def]
    codes, exponents, values, blocks, blocks_per_row, columns, BLOCKS: constexpr
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    exponent = tl.load(exponents + block, mask=inside, other=0).to(tl.int32)
    # An E8M0 exponent is the exponent field of a float32. Bit 22 mends both ends: 2**-127, which
    # is subnormal there, is not zero, and 255 is not infinity but NaN.
    at_an_end = (exponent == 0) | (exponent == 255)
    scale = ((exponent << 23) | (at_an_end.to(tl.int32) << 22)).to(tl.float32, bitcast=True)
    # Counted in blocks, a ragged row costs a division for each block and none for an element.
    column = (block % blocks_per_row)[:, None] * 32 + tl.arange(0, 32)[None, :]
    offset = (block // blocks_per_row).to(tl.int64)[:, None] * columns + column
    mask = inside[:, None] & (column < columns)
    element = tl.load(codes + offset, mask=mask, other=0).to(tl.float32) * 0.015625
    value = element * scale[:, None]
    if values.dtype.element_ty == tl.float16:  # saturate, where a cast would give infinity
        value = tl.clamp(value, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    if values.dtype.element_ty == tl.bfloat16:
        # The upper half of the float32, since nothing is to be rounded. A cast would be the same,
        # but in Triton's interpreter it is wrong where the result is subnormal.
        half = (value.to(tl.int32, bitcast=True) >> 16).to(tl.int16)
        tl.store(values + offset, half.to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(values + offset, value.to(values.dtype.element_ty), mask=mask)


_compiled_kernel: Any = None if triton is None else triton.jit(_dequantize_kernel)


def dequantize_triton(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Unpack tensors on the current CUDA device, or on the CPU in Triton's interpreter.

    Takes and returns what :func:`lightning_adls.kernels.dequantize` does.

    Raises:
        ImportError: If Triton is not installed.
    """
    if triton is None:
        raise MissingPackageError(
            f"dequantize: codes.device={codes.device} needs Triton, which is not installed; "
            "`pip install triton`, or move the packed tensors to the CPU."
        )
    values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    blocks = exponents.numel()
    if blocks:
        _compiled_kernel[triton.cdiv(blocks, _BLOCKS),](
            codes.contiguous(),
            exponents.contiguous(),
            values,
            blocks,
            exponents.shape[-1],
            codes.shape[-1],
            BLOCKS=_BLOCKS,
        )
    return values

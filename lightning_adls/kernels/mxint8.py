"""MXINT8 packed: codes of one byte, and one byte of exponent for a block of 32 along each row.

OCP microscaling formats, MX specification v1.0 (2023), section 5.3.4. An element is
``code / 64 * 2**(exponent - 127)``.
"""

import torch
from torch import Tensor, library

from lightning_adls.errors import InputValueError
from lightning_adls.formats.blocks import block_max, merge, split
from lightning_adls.formats.floats import floor_log2, power_of_two
from lightning_adls.formats.without_bits import are_bits_unknown
from lightning_adls.kernels.mxint8_torch import (
    BLOCK_SIZE,
    EXPONENT_BIAS,
    dequantize_cpu,
    dequantize_reference,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def exponents_shape(shape: torch.Size) -> torch.Size:
    """Shape of the exponents that belong to codes of this shape, of one dimension or more.

    Example:
        >>> exponents_shape(torch.Size([4, 70]))
        torch.Size([4, 3])
    """
    return torch.Size((*shape[:-1], -(-shape[-1] // BLOCK_SIZE)))


@torch.no_grad()
def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pack ``x`` as MXINT8, the numbers that ``formats.MXInt(width=8)`` rounds to.

    Args:
        x: Shape ``(..., columns)``, in one of the ``DTYPES``. Infinities saturate.

    Returns:
        The codes, int8 in -127..127, of the shape of ``x``, and the exponents, uint8 in 0..254, of
        shape ``(..., columns / 32)``, rounded up: the last block of a row may be shorter.

    Raises:
        ValueError: If ``x`` is not in one of the ``DTYPES``, has no dimension or holds a NaN.

    Example:
        >>> quantize(torch.tensor([1.0, -0.5, 0.01]))
        (tensor([ 64, -32,   1], dtype=torch.int8), tensor([127], dtype=torch.uint8))
    """
    if x.dtype not in DTYPES or x.ndim == 0:
        raise InputValueError(
            f"quantize: x of {x.dtype} and shape {tuple(x.shape)} cannot be packed; it takes one "
            f"dimension or more and one of {', '.join(map(str, DTYPES))}."
        )
    if count := int(x.isnan().sum()):
        raise InputValueError(f"quantize: x holds {count} NaN, which have no code.")
    blocks = split(x if x.dtype == torch.float64 else x.float(), BLOCK_SIZE)
    s = floor_log2(block_max(blocks)).clamp_(-127, 127)
    # In two steps: 2**(6 - s) can be above the largest float32.
    elements = (blocks * power_of_two(-s, blocks.dtype)).mul_(64)
    codes = merge(elements.round_().clamp_(-127, 127).to(torch.int8), x.shape)
    exponents = (s + EXPONENT_BIAS).to(torch.uint8)
    return codes.contiguous(), exponents.reshape(exponents_shape(x.shape))


def dequantize(codes: Tensor, exponents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that packed tensors stand for.

    On the CPU in plain torch, on CUDA by a Triton kernel; ``torch.compile`` takes it as one
    operator, ``torch.ops.lightning_adls.mxint8_dequantize``. Every number is exact in float32,
    bfloat16 and float64. In float16 what is too large saturates.

    Args:
        codes: int8, shape ``(..., columns)``. :func:`quantize` never writes -128; read, it is -2
            times the scale, as in the specification, and with exponent 254 too large for float32.
        exponents: uint8, as :func:`quantize` returns them; 255 makes its block NaN.
        dtype: Of the result, one of the ``DTYPES``.

    Raises:
        ValueError: If a data type or a shape is another one.
        ImportError: If the tensors lie on a CUDA device and Triton is not installed.

    Example:
        >>> codes = torch.tensor([64, -32, 1], dtype=torch.int8)
        >>> dequantize(codes, torch.tensor([128], dtype=torch.uint8))
        tensor([ 2.0000, -1.0000,  0.0312])
    """
    _check(codes, exponents, dtype)
    if are_bits_unknown():
        return dequantize_reference(codes, exponents, dtype)
    values: Tensor = _dequantize(codes, exponents, dtype)
    return values


def same_codes(x: Tensor, codes: Tensor, exponents: Tensor) -> bool:
    """Whether ``x``, of the shape of ``codes``, is what packed tensors stand for, but for rounding.

    Example:
        >>> same_codes(torch.tensor([0.999, -0.5]), *quantize(torch.tensor([1.0, -0.5])))
        True
    """
    steps = dequantize(torch.ones_like(codes), exponents, torch.float64)
    return torch.equal((x.detach().double() / steps).round(), codes.double())


def _check(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> None:
    if codes.dtype != torch.int8 or exponents.dtype != torch.uint8:
        raise InputValueError(
            f"dequantize: codes of {codes.dtype} and exponents of {exponents.dtype} are not "
            "packed; they are torch.int8 and torch.uint8."
        )
    if codes.ndim == 0 or exponents.shape != exponents_shape(codes.shape):
        raise InputValueError(
            f"dequantize: exponents of shape {tuple(exponents.shape)} do not belong to codes of "
            f"shape {tuple(codes.shape)}; a row has one for each {BLOCK_SIZE} codes."
        )
    if dtype not in DTYPES:
        raise InputValueError(
            f"dequantize: dtype={dtype} cannot be unpacked to; use {', '.join(map(str, DTYPES))}."
        )


# An opaque operator, not a `triton_op`: that one imports the compiler when it is defined and warns
# where Triton is missing. There is nothing to fuse with either: a matrix product follows.
@library.custom_op("lightning_adls::mxint8_dequantize", mutates_args=(), device_types="cpu")
def _dequantize(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    return dequantize_cpu(codes, exponents, dtype)


@_dequantize.register_kernel("cuda")
def _dequantize_cuda(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    from lightning_adls.kernels.mxint8_triton import dequantize_triton

    with torch.cuda.device(codes.device):
        return dequantize_triton(codes, exponents, dtype)


@_dequantize.register_fake
def _dequantize_fake(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG001
    return torch.empty(codes.shape, dtype=dtype, device=codes.device)

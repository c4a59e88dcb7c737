"""MXINT8 weights to be measured: their operators and layers, and the bytes that each must move."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.bench.records import Record
from lightning_adls.bench.workloads.variants import DTYPES
from lightning_adls.formats import MXInt
from lightning_adls.kernels import BLOCK_SIZE, dequantize, dequantize_reference, quantize
from lightning_adls.layers import LayerFormats, quantized
from lightning_adls.layers.packed import PackedLinear

Operator = Callable[[Tensor, Tensor, Tensor], Any]


def packed_bytes(shape: Sequence[int]) -> int:
    """Of the codes and exponents of a weight, ``(rows, columns)``.

    Example:
        >>> 8 * packed_bytes((16, 64)) / (16 * 64)
        8.25
    """
    rows, columns = shape
    return rows * (columns + -(-columns // BLOCK_SIZE))


def operators(shape: Sequence[int]) -> dict[str, tuple[Operator, int]]:
    """Packing and unpacking a float32 weight of this shape, beside copying it.

    Returns:
        By name, a function of the weight, its codes and its exponents, and the bytes that it must
        read and write at least.
    """
    full, packed = math.prod(shape) * torch.float32.itemsize, packed_bytes(shape)
    return {
        "copy": (lambda weight, codes, exponents: weight.clone(), 2 * full),
        "quantize": (lambda weight, codes, exponents: quantize(weight), full + packed),
        "dequantize": (
            lambda weight, codes, exponents: dequantize(codes, exponents),
            packed + full,
        ),
        "dequantize to bfloat16": (
            lambda weight, codes, exponents: dequantize(codes, exponents, torch.bfloat16),
            packed + full // 2,
        ),
        "dequantize by definition": (
            lambda weight, codes, exponents: dequantize_reference(codes, exponents, torch.float32),
            packed + full,
        ),
    }


def linear_targets(shape: Sequence[int]) -> dict[str, nn.Module]:
    """The same linear layer: plain, with its weight rounded to MXINT8, and with it packed.

    ``rounded and input`` rounds what it multiplies the weight with, too: the arithmetic of hardware
    that multiplies codes.

    Args:
        shape: ``(out_features, in_features)``.
    """
    plain, mxint8 = nn.Linear(shape[1], shape[0]), MXInt(width=8)
    return {
        "linear": plain,
        "rounded": quantized(plain, LayerFormats(weight=mxint8)),
        "rounded and input": quantized(plain, LayerFormats(input=mxint8, weight=mxint8)),
        "packed": PackedLinear.from_linear(plain),
    }


def linear_bytes(record: Record, shape: Sequence[int]) -> int:
    """What a measured layer must read and write: weight, bias, input and output."""
    itemsize = DTYPES[record["dtype"]].itemsize
    is_packed = record["target"] == "packed"
    weight = packed_bytes(shape) if is_packed else math.prod(shape) * itemsize
    batch: int = record["batch"]
    return weight + (batch * sum(shape) + shape[0]) * itemsize


def gb_per_s(record: Record, moved_bytes: int) -> float | None:
    """10^9 bytes per second at the median; None for what could not be measured."""
    median_ms: float | None = record["median_ms"]
    return None if median_ms is None else moved_bytes / median_ms / 1e6

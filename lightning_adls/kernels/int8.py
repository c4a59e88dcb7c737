"""A linear layer whose products are of integers of 8 bits, on the CPU, with exact int32 sums."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional

from lightning_adls.errors import InputValueError
from lightning_adls.kernels import compiled

# Outputs of a panel of packed weights, as in `int8.cpp`.
COLUMNS = 16
ENGINES = ("avx2", "onednn")


@dataclass(frozen=True)
class Rounding:
    """How an input becomes an integer of at most 8 bits.

    Args:
        low: Smallest integer; what is below becomes it, and so does a NaN.
        high: Largest integer, at most 127 with a sign and 255 without.
        down: Whether to round towards minus infinity, else to the nearest and ties to even.
    """

    low: int
    high: int
    down: bool = False


@cache
def fastest_engine() -> str:
    """What multiplies bytes on this CPU: one of ``ENGINES``.

    ``onednn``, behind ``torch._int_mm``, where the CPU has instructions for sums of products of
    bytes (VNNI, AMX); else ``avx2``, the kernel of this package. Without such instructions oneDNN
    saturates sums of two products, or torch multiplies one by one.

    Raises:
        ValueError: If the CPU has neither, or the kernel cannot be compiled.
    """
    has = torch.cpu.get_capabilities()
    if any(has.get(name, False) for name in ("avx512_vnni", "amx_int8")):
        return "onednn"
    if not has.get("avx2", False):
        raise InputValueError(
            "lower: this CPU has neither AVX2 nor VNNI, by which int8 products are faster; run the "
            "model as it is, or compile it."
        )
    compiled.library("int8")
    return "avx2"


def pack(codes: Tensor, engine: str) -> Tensor:
    """Weights in the order in which an engine reads them.

    Args:
        codes: int8, shape ``(columns, inner)``.
        engine: One of ``ENGINES``.

    Returns:
        int8. For ``avx2`` panels of 16 outputs, padded with zeros, shape
        ``(columns / 16, inner / 2, 16, 2)``, rounded up. Else ``(columns, inner)`` as they are.
    """
    if engine == "onednn":
        return codes
    columns, inner = codes.shape
    padded = functional.pad(codes, (0, inner % 2, 0, -columns % COLUMNS))
    return padded.view(-1, COLUMNS, padded.shape[1] // 2, 2).transpose(1, 2).contiguous()


def int8_linear(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    steps: Tensor,
    rounding: Rounding,
    columns: int,
    engine: str,
) -> Tensor:
    """Round the input to integers, multiply with those of the weights, scale and add the bias.

    Args:
        x: float32, shape ``(..., inner)``.
        packed: What :func:`pack` made.
        bias: float32, shape ``(columns,)`` padded with zeros to a multiple of 16.
        steps: float32, shape ``(2,)``: an integer of the input stands for so much, and one of the
            weights.
        rounding: Of ``x / steps[0]``.
        columns: Outputs.
        engine: One of ``ENGINES``.

    Returns:
        float32, shape ``(..., columns)``. Sums of products are exact; what they stand for is
        rounded to float32 once, and once more with the bias.
    """
    if engine == "avx2":
        # One operator, which rounds a row while it is in the cache.
        low, high, down = rounding.low, rounding.high, rounding.down
        out: Tensor = _avx2(x.contiguous(), packed, bias, steps, low, high, down, columns)
        return out
    whole = x.reshape(-1, x.shape[-1]) / steps[0]
    whole = whole.clamp(rounding.low, rounding.high)
    # A NaN becomes the bound, as elsewhere; what a cast makes of it is not said.
    whole = (whole.floor() if rounding.down else whole.round()).nan_to_num(rounding.low)
    shift = 128 if rounding.high > 127 else 0
    sums = torch._int_mm((whole - shift).to(torch.int8), packed.T)
    if shift:
        sums = sums + shift * packed.sum(1, dtype=torch.int32)
    return (sums * (steps[0] * steps[1]) + bias[:columns]).view(*x.shape[:-1], columns)


# Not by `custom_op`, whose calls take twice as long: it is called for each layer.
library.define(
    "lightning_adls::int8_linear",
    "(Tensor x, Tensor packed, Tensor bias, Tensor steps, int low, int high, bool down, "
    "int columns) -> Tensor",
)
_avx2: Any = torch.ops.lightning_adls.int8_linear.default


@library.impl("lightning_adls::int8_linear", "cpu")
def _multiply(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    steps: Tensor,
    low: int,
    high: int,
    down: bool,
    columns: int,
) -> Tensor:
    out = x.new_empty(*x.shape[:-1], columns)
    inner = x.shape[-1]
    if not out.numel():
        return out
    input_step, weight_step = steps.tolist()
    enough = _function()(
        *(x.data_ptr(), packed.data_ptr(), bias.data_ptr(), out.data_ptr()),
        *(x.numel() // inner, inner, columns, input_step, input_step * weight_step),
        *(low, high, down, torch.get_num_threads()),
    )
    if not enough:
        raise MemoryError("int8_linear: no memory for the rounded input.")
    return out


def _multiply_fake(x: Tensor, *arguments: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], arguments[-1])


def _no_gradient(*_: Any) -> Any:
    raise InputValueError(
        "int8_linear: a gradient was asked for, and int8 products have none; differentiate the "
        "model that was lowered."
    )


library.register_fake("lightning_adls::int8_linear", _multiply_fake)
library.register_autograd("lightning_adls::int8_linear", _no_gradient)


@cache
def _function() -> Any:
    function = compiled.library("int8").int8_linear
    pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    function.argtypes = [pointer] * 4 + [size] * 3 + [number] * 4 + [ctypes.c_bool, ctypes.c_int]
    function.restype = ctypes.c_bool
    return function

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
    compiled.load_kernels("int8")
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


@dataclass(frozen=True)
class BlockRounding:
    """How a row becomes blocks of integers of at most 8 bits, each block with a step.

    Args:
        size: Numbers in a block, even; those at the end of a row may be fewer.
        lowest: Smallest exponent of a block's scale, at least -127.
        highest: Largest exponent; between, it is that of the block's largest magnitude.
        width: Bits of an integer, sign included; it counts steps of ``2**(2 - width)`` scales.
    """

    size: int
    lowest: int
    highest: int
    width: int


def int8_block_linear(
    x: Tensor, packed: Tensor, bias: Tensor, steps: Tensor, rounding: BlockRounding, columns: int
) -> Tensor:
    """Multiply integers of each block, and add what blocks give in float32, from the bias on.

    Args:
        x: float32, shape ``(..., inner)``.
        packed: What :func:`pack` made for ``avx2``.
        bias: float32, shape ``(columns,)`` padded with zeros to a multiple of 16.
        steps: What :func:`pack_steps` made.
        rounding: Of ``x``.
        columns: Outputs.

    Returns:
        float32, shape ``(..., columns)``.
    """
    by = rounding
    out: Tensor = _avx2_blocks(
        *(x.contiguous(), packed, bias, steps),
        *(by.size, by.lowest, by.highest, by.width, columns),
    )
    return out


def pack_steps(steps: Tensor) -> Tensor:
    """Steps of blocks of weights in the order in which the kernel reads them.

    Args:
        steps: float32, shape ``(columns, blocks)``.

    Returns:
        Shape ``(columns / 16, blocks, 16)``, rounded up and padded with zeros.
    """
    padded = functional.pad(steps, (0, 0, 0, -steps.shape[0] % COLUMNS))
    return padded.view(-1, COLUMNS, steps.shape[1]).transpose(1, 2).contiguous()


# Not by `custom_op`, whose calls take twice as long: it is called for each layer.
library.define(
    "lightning_adls::int8_linear",
    "(Tensor x, Tensor packed, Tensor bias, Tensor steps, int low, int high, bool down, "
    "int columns) -> Tensor",
)
library.define(
    "lightning_adls::int8_block_linear",
    "(Tensor x, Tensor packed, Tensor bias, Tensor steps, int size, int lowest, int highest, "
    "int width, int columns) -> Tensor",
)
_avx2: Any = torch.ops.lightning_adls.int8_linear.default
_avx2_blocks: Any = torch.ops.lightning_adls.int8_block_linear.default


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
    input_step, weight_step = steps.tolist()
    by_step = (input_step, input_step * weight_step, low, high, down)
    return _call(x, packed, bias, columns, by_step, (None, 0, 0, 0, 0))


@library.impl("lightning_adls::int8_block_linear", "cpu")
def _multiply_blocks(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    steps: Tensor,
    size: int,
    lowest: int,
    highest: int,
    width: int,
    columns: int,
) -> Tensor:
    blocks = (steps.data_ptr(), size, lowest, highest, width)
    return _call(x, packed, bias, columns, (1.0, 1.0, 0, 0, False), blocks)


def _call(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    columns: int,
    by_step: tuple[float, ...],
    blocks: tuple[int | None, ...],
) -> Tensor:
    out = x.new_empty(*x.shape[:-1], columns)
    inner = x.shape[-1]
    if not out.numel():
        return out
    enough = _function()(
        *(x.data_ptr(), packed.data_ptr(), bias.data_ptr(), out.data_ptr()),
        *(x.numel() // inner, inner, columns, *by_step, *blocks, torch.get_num_threads()),
    )
    if not enough:
        raise MemoryError("int8_linear: no memory for the rounded input.")
    return out


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], arguments[-1])


def _no_gradient(*_: Any) -> Any:
    raise InputValueError(
        "int8_linear: a gradient was asked for, and int8 products have none; differentiate the "
        "model that was lowered."
    )


for _name in ("lightning_adls::int8_linear", "lightning_adls::int8_block_linear"):
    library.register_fake(_name, _fake)
    library.register_autograd(_name, _no_gradient)


@cache
def _function() -> Any:
    function = compiled.load_kernels("int8").int8_linear
    pointer, size, number, whole = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
    function.argtypes = [
        *(pointer,) * 4,
        *(size,) * 3,
        *(number,) * 4,
        ctypes.c_bool,
        *(pointer, size, whole, whole, whole, whole),
    ]
    function.restype = ctypes.c_bool
    return function

"""Decoding on the CPU in one pass over the codes, by ``decode.cpp``."""

import ctypes
from typing import ClassVar

import torch
from torch import Tensor

from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import tile
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.compiled import Kernels
from lightning_adls.kernels.lookup import Floats, Lookup, Multiples

# As `decode.cpp` counts them.
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_MULTIPLES, _FLOATS = 1, 2


def _declare(library: ctypes.CDLL) -> None:
    library.decode.argtypes = [ctypes.POINTER(_Matrix), ctypes.c_int, ctypes.c_int]
    library.decode.restype = None


KERNELS = Kernels("decode", ("avx2", "f16c"), "packed weights are decoded", _declare)


def decode_compiled(
    shapes: CodedShapes,
    lookup: Lookup,
    codes: Tensor,
    shared: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The values of a matrix in codes; takes and returns what ``decode_torch`` does, on the CPU.

    Raises:
        ValueError: If the kernel cannot be compiled.
    """
    functions = KERNELS.functions
    values = torch.empty(shapes.shape, dtype=shapes.dtype)
    codes = codes.contiguous()
    shared, mask = (None if part is None else part.contiguous() for part in (shared, mask))
    if not values.numel():
        return values
    matrix = _Matrix(
        codes=codes.data_ptr(),
        codes_size=codes.numel(),
        width=shapes.format.code_bits,
        rules=_rules(lookup),
        limit=torch.finfo(shapes.dtype).max,
        mask=None if mask is None else mask.data_ptr(),
        out=values.data_ptr(),
        rows=shapes.shape[0],
        columns=shapes.shape[1],
    )
    if lookup.factors is not None:
        fmt = shapes.format
        assert isinstance(fmt, BlockFormat)
        assert shared is not None
        matrix.factors, matrix.shared = lookup.factors.data_ptr(), shared.data_ptr()
        matrix.shared_size, matrix.shared_width = shared.numel(), fmt.shared_bits
        matrix.tile_rows, matrix.tile_columns = tile(shapes.shape, fmt.block_size)
    functions.decode(ctypes.byref(matrix), _KINDS[shapes.dtype], torch.get_num_threads())
    return values


def _rules(lookup: Lookup) -> "_Rules":
    rules = _Rules(table=lookup.codes.data_ptr(), tables=len(lookup.codes))
    if isinstance(rule := lookup.rule, Multiples):
        rules.rule, rules.step, rules.sign = _MULTIPLES, rule.step, rule.sign
    elif isinstance(rule, Floats):
        rules.rule, rules.mantissa, rules.leading = _FLOATS, rule.mantissa, rule.leading
        rules.exponent = rule.exponent + 127
    return rules


# The structures of `decode.cpp`.


class _Rules(ctypes.Structure):
    _fields_: ClassVar = [
        ("rule", ctypes.c_int),
        ("table", ctypes.c_void_p),
        ("tables", ctypes.c_long),
        ("step", ctypes.c_float),
        ("sign", ctypes.c_int),
        ("mantissa", ctypes.c_int),
        ("leading", ctypes.c_int),
        ("exponent", ctypes.c_int),
    ]


class _Matrix(ctypes.Structure):
    _fields_: ClassVar = [
        ("codes", ctypes.c_void_p),
        ("codes_size", ctypes.c_long),
        ("width", ctypes.c_int),
        ("rules", _Rules),
        ("factors", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("shared_size", ctypes.c_long),
        ("shared_width", ctypes.c_int),
        ("tile_rows", ctypes.c_long),
        ("tile_columns", ctypes.c_long),
        ("limit", ctypes.c_float),
        ("mask", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_long),
        ("columns", ctypes.c_long),
    ]

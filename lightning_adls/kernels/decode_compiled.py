"""Decoding on the CPU in one pass over the codes, by ``decode.cpp``."""

import ctypes
import sys
import warnings
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import tile
from lightning_adls.kernels import compiled
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.lookup import Floats, Lookup, Multiples

PAYS_AFTER = 1 << 26
"""Elements that a process decodes by torch before it compiles the kernel: as long as that takes."""

# As `decode.cpp` counts them.
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_MULTIPLES, _FLOATS = 1, 2


class Kernel:
    """The function of ``decode.cpp``, and when it is worth compiling.

    It is compiled once on a machine: for the first process that decodes ``PAYS_AFTER`` elements
    altogether. Where that was done before, it is used from the first weight on.
    """

    def __init__(self) -> None:
        self._function: Any = None
        self._elements = 0

    def pays(self, elements: int) -> bool:
        """Whether it decodes the next matrix, of so many elements; it is compiled then.

        A compiler that fails is warned of once.
        """
        if self._function is not None:
            return True
        self._elements += elements
        if not self.is_possible or not (self._elements >= PAYS_AFTER or self._is_kept):
            return False
        try:
            self.function()
        except InputValueError as error:
            self.is_possible = False
            warnings.warn(
                f"{error} Until then packed weights are decoded by torch: the same values, slower.",
                stacklevel=2,
            )
        return self.is_possible

    @cached_property
    def is_possible(self) -> bool:
        """Whether this CPU has its instructions, and there is a compiler."""
        has = torch.cpu.get_capabilities()
        instructions = bool(has.get("avx2")) and bool(has.get("f16c"))
        return instructions and sys.byteorder == "little" and compiled.find_compiler() is not None

    @cached_property
    def _is_kept(self) -> bool:
        return compiled.is_kept("decode")

    def function(self) -> Any:
        """The function, compiled if it is not.

        Raises:
            ValueError: If there is no compiler, or it fails.
        """
        if self._function is None:
            function = compiled.load_kernels("decode").decode
            function.argtypes = [ctypes.POINTER(_Matrix), ctypes.c_int, ctypes.c_int]
            function.restype = None
            self._function = function
        return self._function


KERNEL = Kernel()


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
    function = KERNEL.function()
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
    function(ctypes.byref(matrix), _KINDS[shapes.dtype], torch.get_num_threads())
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

"""Decoding and encoding by tables of what each code stands for: no arithmetic that could round."""

import sys
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lightning_adls.formats import NumberFormat
from lightning_adls.formats.base import narrow
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_max, merge, split
from lightning_adls.formats.floats import power_of_two
from lightning_adls.kernels.bits import codes_of_a_word, unpack_few, unpack_words

WIDEST = 16  # bits of a code that has a table
_WORTH_IT = 4  # elements for each entry of a table that is made for one matrix
_TOLD_APART = 8  # bits of a code whose values have at most eight significant bits
_UPPER = 1 << 16  # upper halves of the bits of a float32
# Numbers that are as wide as what several codes stand for: torch takes one faster than a row.
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


@dataclass(frozen=True)
class Lookup:
    """How the codes of a matrix are looked up.

    Args:
        format: Of the elements.
        codes: What each code stands for, shape ``(tables, 2**code_bits)``: one table, or one for
            each row; apart from ``factors``.
        words: What each word of codes stands for, shape ``(words, codes of a word)``; None where
            each row has a table, or a table of words would not be worth it.
        factors: Float32 powers of two that the elements of blocks are multiplied by, exactly, as
            :func:`~lightning_adls.formats.blocks.split` sees them, of whole rows; None if there
            are none.
    """

    format: NumberFormat
    codes: Tensor
    words: Tensor | None
    factors: Tensor | None = None

    @classmethod
    def of(
        cls,
        fmt: NumberFormat,
        shape: torch.Size,
        dtype: torch.dtype,
        shared: Tensor | None,
        device: torch.device,
    ) -> "Lookup | None":
        """How a matrix of ``shape`` is looked up, or None where its format has to compute it.

        Args:
            fmt: Of the elements.
            shape: Rows and columns.
            dtype: Of the values.
            shared: What elements share: codes, one for each block, or scales.
            device: Of the codes.
        """
        if fmt.code_bits > WIDEST or dtype == torch.float64:
            return None
        if isinstance(fmt, BlockFormat):
            assert shared is not None
            return cls._of_blocks(fmt, shape, shared)
        if shared is None:
            return cls(fmt, *_tables(fmt, dtype, device))
        rows = shape[0] if shared.ndim > 1 and shared.shape[-2] == shape[0] else 1
        size = 1 << fmt.code_bits
        if shape.numel() < _WORTH_IT * rows * size:
            return None
        every = torch.arange(size, device=shared.device).expand(rows, size)
        codes = narrow(fmt.from_codes(every, shared), dtype)
        entries = 1 << fmt.code_bits * codes_of_a_word(fmt.code_bits)
        words = None
        if rows == 1 and shape.numel() >= _WORTH_IT * entries:
            words = _words_of(codes[0], fmt.code_bits)
        return cls(fmt, codes, words)

    @classmethod
    def _of_blocks(cls, fmt: BlockFormat, shape: torch.Size, shared: Tensor) -> "Lookup | None":
        elements = _elements(fmt, shared.device)
        if elements is None or not shape.numel():
            return None
        s = shared + fmt.shared_range[0]
        least, most = (int(bound) for bound in s.aminmax())
        if least < elements.least or most > elements.most:
            return None
        factors = power_of_two(s, torch.float32)
        blocks = split(torch.empty(shape, device="meta"), fmt.block_size)
        factors = factors.reshape(blocks.shape[0], 1, blocks.shape[2], 1)
        return cls(fmt, elements.codes, elements.words, factors)

    def of_packed(self, packed: Tensor, rows: slice, place: Tensor) -> None:
        """Write the values of some rows to ``place``, of packed codes that begin with them."""
        width, count = self.format.code_bits, place.numel()
        if self.words is None:
            self.of_codes(unpack_few(packed, width, count), rows, place)
            return
        words = unpack_words(packed, width, count)
        if self.factors is None and words.numel() * self.words.shape[1] == count:
            _take(self.words, words, place)
        else:
            elements = self.words.new_empty(words.numel() * self.words.shape[1])
            _take(self.words, words, elements)
            self._scaled(elements[:count], rows, place)

    def of_codes(self, codes: Tensor, rows: slice, place: Tensor) -> None:
        """Write the values of some rows to ``place``; one code for each element."""
        tables, size = self.codes.shape
        codes = codes.to(
            torch.int64 if tables * size > torch.iinfo(torch.int32).max else torch.int32
        )
        if tables > 1:
            first = torch.arange(rows.start, rows.stop, dtype=codes.dtype, device=codes.device)
            codes = (codes.view(place.shape) + (first * size)[:, None]).flatten()
        self._scaled(self.codes.flatten().index_select(0, codes.flatten()), rows, place)

    def _scaled(self, elements: Tensor, rows: slice, place: Tensor) -> None:
        elements = elements.view(place.shape)
        if self.factors is None:
            place.copy_(elements)
            return
        assert isinstance(self.format, BlockFormat)
        whole = rows.stop - rows.start
        blocks = split(elements, self.format.block_size)
        tall = blocks.shape[1]  # rows of a block, of which a part of the rows has whole ones
        factors = self.factors[rows.start // tall : -(-(rows.start + whole) // tall)]
        place.copy_(narrow(merge(blocks.mul_(factors), elements.shape), place.dtype))


@dataclass(frozen=True)
class _Elements:
    """Elements before a shared exponent, and between which of these the product is exact."""

    codes: Tensor
    words: Tensor
    least: int
    most: int


@lru_cache(maxsize=64)
def _elements(fmt: BlockFormat, device: torch.device) -> _Elements | None:
    """None if float32 has not all elements."""
    wide = fmt.decode_element(torch.arange(1 << fmt.code_bits, device=device))
    codes = wide.float()
    if not torch.equal(codes.double(), wide):
        return None
    sizes = wide[wide != 0].abs()
    fractions, exponents = torch.frexp(sizes)
    # The lowest bit of a fraction of 24 bits, which is what can be lost to a small exponent.
    whole = (fractions * 2.0**24).long()
    lowest = torch.log2((whole & -whole).double()).long() + exponents - 24
    return _Elements(
        codes[None],
        _words_of(codes, fmt.code_bits),
        least=max(-126, -149 - int(lowest.min())),  # factors are normal numbers, products any
        most=min(127, 128 - int(exponents.max())),
    )


@lru_cache(maxsize=64)
def _tables(fmt: NumberFormat, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of codes and of words, for a format whose elements share nothing."""
    every = torch.arange(1 << fmt.code_bits, device=device)
    codes = narrow(fmt.from_codes(every, None), dtype)
    return codes[None], _words_of(codes, fmt.code_bits)


def _words_of(codes: Tensor, width: int) -> Tensor:
    """The table of words that a table of codes makes."""
    in_word = codes_of_a_word(width)
    words = torch.arange(1 << width * in_word, dtype=torch.int32, device=codes.device)
    shifts = torch.arange(in_word, dtype=torch.int32, device=codes.device) * width
    return codes[(words[:, None] >> shifts & ((1 << width) - 1)).long()]


def _take(table: Tensor, words: Tensor, place: Tensor) -> None:
    """Write rows of a table to ``place``, which is contiguous, one after the other."""
    kind = _WHOLE.get(table.shape[1] * table.itemsize)
    if kind is None:
        torch.index_select(table, 0, words, out=place.view(-1, table.shape[1]))
    else:
        torch.index_select(table.view(kind).flatten(), 0, words, out=place.view(-1).view(kind))


def find_codes(fmt: NumberFormat, values: Tensor) -> Tensor | None:
    """The codes of rounded values, or None where the format has to compute them.

    Args:
        fmt: A format whose elements share nothing, or, with values divided by what they share, one
            of blocks.
        values: Float32 values that the format has.

    Returns:
        uint8, of the shape of ``values``.
    """
    table = _codes_by_value(fmt, values.device)
    if table is None:
        return None
    half = 1 if sys.byteorder == "little" else 0
    upper = values.contiguous().view(torch.int16).view(-1, 2)[:, half].to(torch.int32)
    return table.index_select(0, upper.bitwise_and_(_UPPER - 1)).view(values.shape)


def find_block_codes(fmt: BlockFormat, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Codes of float32 values, rounded, and of what their blocks share.

    Returns:
        What :meth:`~lightning_adls.formats.NumberFormat.encode` gives for a matrix; None where the
        format has to compute it.
    """
    elements = _elements(fmt, x.device) if fmt.code_bits <= _TOLD_APART else None
    if elements is None or not x.numel():
        return None
    blocks = split(x, fmt.block_size)
    scale = fmt.scale(block_max(blocks))
    s = fmt.exponent(scale)
    least, most = (int(bound) for bound in s.aminmax())
    if least < elements.least or most > min(elements.most, 126):  # whose reciprocal is normal
        return None
    rounded = fmt.round_blocks(blocks, scale).mul_(power_of_two(-s, torch.float32))
    codes = find_codes(fmt, rounded)
    shared = (s - fmt.shared_range[0]).squeeze(-1).squeeze(-2)
    return None if codes is None else (merge(codes, x.shape), shared)


@lru_cache(maxsize=64)
def _codes_by_value(fmt: NumberFormat, device: torch.device) -> Tensor | None:
    """Codes by the upper half of the bits of float32 values, if these tell values apart."""
    if fmt.code_bits > _TOLD_APART:
        return None
    every = torch.arange(1 << fmt.code_bits, device=device)
    if isinstance(fmt, BlockFormat):
        values = fmt.decode_element(every)
        own = fmt.encode_element(values)
    else:
        values = fmt.from_codes(every, None)
        own, _ = fmt.to_codes(values)
    narrowed = values.float()
    bits = narrowed.view(torch.int32)
    if not torch.equal(narrowed.double(), values.double()) or bool((bits & _UPPER - 1).any()):
        return None
    table = torch.zeros(_UPPER, dtype=torch.uint8, device=device)
    table[bits >> 16 & _UPPER - 1] = own.to(torch.uint8)
    if bool((narrowed == 0).any()):
        table[[0, _UPPER // 2]] = own[narrowed == 0][0].to(torch.uint8)  # of either sign
    return table

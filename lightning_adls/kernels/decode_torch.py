"""Decoding by torch's operators: tables of words of codes, or a format's own arithmetic."""

import torch
from torch import Tensor

from lightning_adls.formats.base import narrow
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import merge, split
from lightning_adls.kernels.bits import (
    codes_of_a_word,
    packed_bytes,
    unpack_bits,
    unpack_few,
    unpack_words,
)
from lightning_adls.kernels.coded_shapes import CodedShapes, row_parts, shared_bits
from lightning_adls.kernels.lookup import WORTH_IT, Lookup

# Numbers that are as wide as what several codes stand for: torch takes one faster than a row.
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def decode_torch(
    shapes: CodedShapes,
    lookup: Lookup | None,
    codes: Tensor,
    shared: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The values of a matrix in codes.

    Args:
        shapes: Format, rows and columns, dtype.
        lookup: What its codes stand for; None has the format compute it.
        codes: The parts of a :class:`~lightning_adls.kernels.coded.Coded` of these shapes.
        shared: Likewise.
        mask: Likewise.

    Returns:
        Shape ``shapes.shape``, of ``shapes.dtype``.
    """
    return _Matrix(shapes, lookup, shared).decode(codes, mask)


class _Matrix:
    def __init__(self, shapes: CodedShapes, lookup: Lookup | None, shared: Tensor | None) -> None:
        self._format, self._shapes, self._lookup = shapes.format, shapes, lookup
        if shared is not None and not shared.is_floating_point():
            shared = unpack_bits(shared, shared_bits(shapes.format), shapes.shared_count)
        self._shared = shared
        self._factors: Tensor | None = None
        if lookup is not None and lookup.factors is not None and shared is not None:
            assert isinstance(shapes.format, BlockFormat)
            blocks = split(torch.empty(shapes.shape, device="meta"), shapes.format.block_size)
            of_blocks = lookup.factors.index_select(0, shared.flatten())
            self._factors = of_blocks.view(blocks.shape[0], 1, blocks.shape[2], 1)

    def decode(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        fmt, (rows, columns), kept = self._format, self._shapes.shape, self._shapes.kept
        width, shared = fmt.code_bits, self._shared
        codes_kept = None if kept is None else unpack_bits(codes, width, kept)
        values = torch.empty((rows, columns), dtype=self._shapes.dtype, device=codes.device)
        # Codes of shared exponents belong to rows unless blocks have several.
        apart = shared is None or shared.is_floating_point() or fmt.rounds_rows_apart
        done = 0
        for part in row_parts(rows, columns, codes.device, apart):
            place = values[part]
            if mask is None or codes_kept is None:
                first = packed_bytes(part.start * columns, width)
                here = codes[first : first + packed_bytes(place.numel(), width)]
                self._write_packed(here, part, place)
                continue
            first = packed_bytes(part.start * columns, 1)
            bits = mask[first : first + packed_bytes(place.numel(), 1)]
            keeps = unpack_few(bits, 1, place.numel()).bool()
            count = int(keeps.sum())
            elements = torch.zeros(place.numel(), dtype=torch.int64, device=codes.device)
            elements[keeps] = codes_kept[done : done + count]
            done += count
            self._write(elements, part, place)
            place.masked_fill_(~keeps.view(place.shape), 0.0)
        return values

    def _write_packed(self, packed: Tensor, rows: slice, place: Tensor) -> None:
        """Write the values of some rows to ``place``, of packed codes that begin with them."""
        width, count, lookup = self._format.code_bits, place.numel(), self._lookup
        if lookup is None:
            self._write(unpack_bits(packed, width, count), rows, place)
            return
        entries = 1 << width * codes_of_a_word(width)
        if len(lookup.codes) > 1 or count < WORTH_IT * entries:
            self._write(unpack_few(packed, width, count), rows, place)
            return
        words = unpack_words(packed, width, count)
        if self._factors is None and words.numel() * lookup.words.shape[1] == count:
            _take(lookup.words, words, place)
        else:
            elements = lookup.words.new_empty(words.numel() * lookup.words.shape[1])
            _take(lookup.words, words, elements)
            self._write_scaled(elements[:count], rows, place)

    def _write(self, codes: Tensor, rows: slice, place: Tensor) -> None:
        """Write the values of some rows to ``place``; one code for each element."""
        if self._lookup is None:
            own = self._shared_of(rows)
            computed = self._format.from_codes(codes.view(place.shape), own)
            place.copy_(narrow(computed, place.dtype))
            return
        tables, size = self._lookup.codes.shape
        codes = codes.to(
            torch.int64 if tables * size > torch.iinfo(torch.int32).max else torch.int32
        )
        if tables > 1:
            first = torch.arange(rows.start, rows.stop, dtype=codes.dtype, device=codes.device)
            codes = (codes.view(place.shape) + (first * size)[:, None]).flatten()
        elements = self._lookup.values.flatten().index_select(0, codes.flatten())
        self._write_scaled(elements, rows, place)

    def _shared_of(self, rows: slice) -> Tensor | None:
        shared, count = self._shared, self._shapes.shape[0]
        if shared is None:
            return None
        if not shared.is_floating_point():
            return shared if rows.stop - rows.start == count else shared.view(count, -1)[rows]
        each_row = shared.ndim > 1 and shared.shape[-2] == count
        return shared[..., rows, :] if each_row else shared

    def _write_scaled(self, elements: Tensor, rows: slice, place: Tensor) -> None:
        elements = elements.view(place.shape)
        if self._factors is None:
            place.copy_(elements)
            return
        assert isinstance(self._format, BlockFormat)
        assert self._lookup is not None
        blocks = split(elements, self._format.block_size)
        tall = blocks.shape[1]  # rows of a block, of which a part of the rows has whole ones
        factors = self._factors[rows.start // tall : -(-rows.stop // tall)]
        products = blocks.mul_(factors)
        if self._lookup.saturates:
            limit = torch.finfo(products.dtype).max
            products.clamp_(-limit, limit)
        place.copy_(narrow(merge(products, elements.shape), place.dtype))


def _take(table: Tensor, words: Tensor, place: Tensor) -> None:
    """Write rows of a table to ``place``, which is contiguous, one after the other."""
    kind = _WHOLE.get(table.shape[1] * table.itemsize)
    if kind is None:
        torch.index_select(table, 0, words, out=place.view(-1, table.shape[1]))
    else:
        torch.index_select(table.view(kind).flatten(), 0, words, out=place.view(-1).view(kind))

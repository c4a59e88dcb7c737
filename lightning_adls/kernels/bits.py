"""Codes of a few bits each, one after the other without a gap.

Short codes are packed eight at once, as the bytes of a 64-bit number, in three steps that each push
halves together. To look codes up they are taken by words, of which each holds several.
"""

import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adls.kernels import encode_cpu

_AT_ONCE = 1 << 18  # codes, of which there are several copies
_CODES_OF_A_WORD = {1: 8, 2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 2}  # by bits of a code; else one
_EIGHT_AT_ONCE = sys.byteorder == "little"
_LANES = {2: torch.int32, 4: torch.int16, 8: torch.uint8}  # that a 64-bit number is seen as


def packed_bytes(count: int, width: int) -> int:
    """Bytes that :func:`pack_bits` needs for so many codes: ``count * width / 8``, rounded up.

    Example:
        >>> packed_bytes(9, 3)
        4
    """
    return -(-count * width // 8)


def codes_of_a_word(width: int) -> int:
    """How many codes of ``width`` bits a word of :func:`unpack_words` holds.

    Example:
        >>> codes_of_a_word(3), codes_of_a_word(8)
        (4, 1)
    """
    return _CODES_OF_A_WORD.get(width, 1)


def pack_bits(codes: Tensor, width: int) -> Tensor:
    """Write codes as a stream of bits, the lowest bit of each code and byte first.

    Args:
        codes: Integers or bools of any shape, at least 0 and below ``2**width``, row by row.
        width: Bits of a code, 1 to 32.

    Returns:
        uint8, shape ``(packed_bytes(codes.numel(), width),)``. The last byte ends with zeros.

    Example:
        >>> pack_bits(torch.tensor([1, 2, 3]), width=2)
        tensor([57], dtype=torch.uint8)
    """
    flat = codes.reshape(-1)
    if width == 8:
        return flat.to(torch.uint8, copy=True)
    if encode_cpu.are_worth_it(flat):
        if width > 8:
            flat = flat if flat.itemsize in (4, 8) else flat.to(torch.int32)
        else:
            flat = flat.view(torch.uint8) if flat.dtype == torch.bool else flat.to(torch.uint8)
        packed = torch.empty(packed_bytes(flat.numel(), width), dtype=torch.uint8)
        encode_cpu.pack(flat, width, packed)
        return packed
    parts = [_pack(part, width) for part in flat.split(_AT_ONCE)]
    return torch.cat(parts)[: packed_bytes(flat.numel(), width)].contiguous()


def _pack(codes: Tensor, width: int) -> Tensor:
    if width == 16 and _EIGHT_AT_ONCE:
        return codes.to(torch.int16).view(torch.uint8)
    if width > 8 or not _EIGHT_AT_ONCE:
        return _pack_columns(codes, width)
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.numel() % 8))
    eights = padded.view(torch.int64)
    for lane in (8, 16, 32):
        inside = width * lane // 8  # bits of a lane that codes fill
        low = _lower(inside, lane)
        eights = (eights & low) | (eights & low << lane) >> lane - inside
    return eights.view(torch.uint8).view(-1, 8)[:, :width].flatten()


def _lower(bits: int, lane: int) -> int:
    """Ones in the lowest bits of every other lane of a 64-bit number."""
    return sum((1 << bits) - 1 << start for start in range(0, 64, 2 * lane))


def unpack_bits(packed: Tensor, width: int, count: int) -> Tensor:
    """Undo :func:`pack_bits`.

    Args:
        packed: uint8, shape ``(packed_bytes(count, width),)``.
        width: Bits of a code, 1 to 32.
        count: Number of codes.

    Returns:
        int64, shape ``(count,)``.

    Example:
        >>> unpack_bits(torch.tensor([57], dtype=torch.uint8), width=2, count=3)
        tensor([1, 2, 3])
    """
    codes = torch.empty(count, dtype=torch.int64, device=packed.device)
    parts = packed.split(packed_bytes(_AT_ONCE, width))
    for part, place in zip(parts, codes.split(_AT_ONCE), strict=True):
        place.copy_(unpack_few(part, width, len(place)))
    return codes


def unpack_few(packed: Tensor, width: int, count: int) -> Tensor:
    """As :func:`unpack_bits`, all at once, and in uint8 or int32 where these hold a code."""
    if width == 8:
        return packed[:count]
    if width > 8 or not _EIGHT_AT_ONCE:
        return _unpack_columns(packed, width)[:count]
    return _spread(packed, width, 8)[:count]


def unpack_words(packed: Tensor, width: int, count: int) -> Tensor:
    """Words of ``codes_of_a_word(width)`` codes each, the first in the lowest bits.

    Args:
        packed: uint8, as :func:`pack_bits` gives it.
        width: Bits of a code, 1 to 32.
        count: Number of codes.

    Returns:
        int32, or int64 for codes above 16 bits; the last one may hold more codes, which are 0.

    Example:
        >>> unpack_words(torch.tensor([57], dtype=torch.uint8), width=2, count=3)
        tensor([57], dtype=torch.int32)
    """
    in_word = codes_of_a_word(width)
    bits, needed = width * in_word, -(-count // in_word)
    if bits == 8:
        return packed[:needed].to(torch.int32)
    if width > 8 or not _EIGHT_AT_ONCE:
        return _unpack_columns(packed, bits)[:needed]
    return _spread(packed, width, 8 // in_word)[:needed].to(torch.int32)


def _spread(packed: Tensor, width: int, lanes: int) -> Tensor:
    """Eight codes below 8 bits from each ``width`` bytes, as so many lanes of as many codes."""
    groups = torch.nn.functional.pad(packed, (0, -packed.numel() % width)).view(-1, width)
    eights = torch.nn.functional.pad(groups, (0, 8 - width)).view(torch.int64)
    for lane in (32, 16, 8)[: lanes.bit_length() - 1]:
        inside = width * lane // 8
        low = _lower(inside, lane)
        eights = (eights & low) | (eights & low << inside) << lane - inside
    return eights.view(_LANES[lanes]).flatten()


# Any width, byte by byte.


def _pack_columns(codes: Tensor, width: int) -> Tensor:
    together, size = _period(width)
    wide = codes.to(torch.int32 if width <= 16 else torch.int64)
    groups = torch.nn.functional.pad(wide, (0, -codes.numel() % together)).view(-1, together)
    bytes_ = torch.zeros(len(groups), size, dtype=torch.uint8, device=codes.device)
    for byte in range(size):
        for code, shift in _in_byte(byte, width):
            column = groups[:, code]
            bytes_[:, byte] |= ((column >> shift if shift >= 0 else column << -shift) & 255).to(
                torch.uint8
            )
    return bytes_.flatten()


def _unpack_columns(packed: Tensor, width: int) -> Tensor:
    together, size = _period(width)
    groups = torch.nn.functional.pad(packed, (0, -packed.numel() % size)).view(-1, size)
    columns = [
        column.to(torch.int32 if width <= 16 else torch.int64) for column in groups.unbind(1)
    ]
    codes = columns[0].new_zeros(len(groups), together)
    for byte, column in enumerate(columns):
        for code, shift in _in_byte(byte, width):
            codes[:, code] |= column << shift if shift >= 0 else column >> -shift
    return codes.bitwise_and_((1 << width) - 1).flatten()


def _period(width: int) -> tuple[int, int]:
    """After how many codes a code begins with a byte again, and how many bytes these are."""
    size = math.lcm(width, 8)
    return size // width, size // 8


def _in_byte(byte: int, width: int) -> Iterator[tuple[int, int]]:
    """The codes that have bits in a byte, and how far each is shifted down to be there."""
    for code in range(8 * byte // width, (8 * byte + 7) // width + 1):
        yield code, 8 * byte - code * width

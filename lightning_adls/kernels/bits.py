"""Codes of a few bits each, one after the other without a gap."""

import torch
from torch import Tensor

_AT_ONCE = 1 << 18  # codes, of 8 bytes each and several times


def packed_bytes(count: int, width: int) -> int:
    """Bytes that :func:`pack_bits` needs for so many codes: ``count * width / 8``, rounded up.

    Example:
        >>> packed_bytes(9, 3)
        4
    """
    return -(-count * width // 8)


def _places(width: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Of 8 codes, which take ``width`` bytes: first byte, bit within it, bytes that are touched."""
    start = torch.arange(8, device=device) * width
    offset = start % 8
    return start // 8, offset, -(-(7 + width) // 8)


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
    parts = [_pack(part, width) for part in flat.split(_AT_ONCE)]
    return torch.cat(parts)[: packed_bytes(flat.numel(), width)].contiguous()


def _pack(codes: Tensor, width: int) -> Tensor:
    first, offset, span = _places(width, codes.device)
    padded = torch.nn.functional.pad(codes.long(), (0, -codes.numel() % 8))
    words = padded.view(-1, 8) << offset
    bytes_ = words.new_zeros(len(words), width + span)
    for byte in range(span):
        bytes_.index_add_(1, first + byte, words >> (8 * byte) & 255)
    return bytes_[:, :width].to(torch.uint8).flatten()


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
        place.copy_(_unpack(part, width)[: len(place)])
    return codes


def _unpack(packed: Tensor, width: int) -> Tensor:
    first, offset, span = _places(width, packed.device)
    groups = torch.nn.functional.pad(packed, (0, -packed.numel() % width)).view(-1, width)
    bytes_ = torch.nn.functional.pad(groups, (0, span)).long()
    words = bytes_[:, first]
    for byte in range(1, span):
        words |= bytes_[:, first + byte] << (8 * byte)
    return (words >> offset & ((1 << width) - 1)).flatten()

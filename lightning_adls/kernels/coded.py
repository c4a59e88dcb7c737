"""A matrix in the codes of any number format, as many bits an element as the format says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor, library

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Encoded, Integer, LearnedInteger, NumberFormat, parse
from lightning_adls.formats.base import PART, narrow, widen
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.kernels.bits import pack_bits, packed_bytes, unpack_bits, unpack_few
from lightning_adls.kernels.lookup import Lookup, find_block_codes, find_codes


@dataclass(frozen=True)
class CodedShapes:
    """What the parts of a :class:`Coded` matrix look like, told without its values.

    Args:
        format: Of the elements.
        shape: Rows and columns.
        dtype: Of the values.
        kept: How many elements have a code, where the others are zeros that a mask tells of; None
            if all have one.
    """

    format: NumberFormat
    shape: tuple[int, int]
    dtype: torch.dtype
    kept: int | None = None

    @property
    def code_count(self) -> int:
        """Elements that have a code."""
        return math.prod(self.shape) if self.kept is None else self.kept

    def parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of each part that there is: ``codes``, ``shared``, ``mask``."""
        parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        size = packed_bytes(self.code_count, self.format.code_bits)
        parts["codes"] = torch.uint8, (size,)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        shared = _shared_like(self.format, self.shape, wide)
        if shared is not None and shared.is_floating_point():
            parts["shared"] = shared.dtype, tuple(shared.shape)
        elif shared is not None:
            size = packed_bytes(shared.numel(), shared_bits(self.format))
            parts["shared"] = torch.uint8, (size,)
        if self.kept is not None:
            parts["mask"] = torch.uint8, (packed_bytes(math.prod(self.shape), 1),)
        return parts


@lru_cache(maxsize=1024)
def _shared_like(fmt: NumberFormat, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """What elements share, without memory or values: the format itself says it."""
    return fmt.to_codes(torch.empty(shape, dtype=dtype, device="meta"))[1]


@dataclass(frozen=True)
class Coded:
    """A matrix as its format stores it.

    Args:
        shapes: Format, rows and columns, dtype.
        codes: uint8, the codes of the elements packed by :func:`pack_bits`.
        shared: What elements share: codes of exponents, packed likewise, or scales in floating
            point; None if they share nothing.
        mask: uint8, a bit for each element, packed likewise; only elements of bit 1 have a code,
            and the others are 0. None if all have one.
    """

    shapes: CodedShapes
    codes: Tensor
    shared: Tensor | None = None
    mask: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts().values())

    def parts(self) -> dict[str, Tensor]:
        """The parts that there are, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {name: part for name, part in found.items() if part is not None}

    def with_parts(self, parts: dict[str, Tensor], dtype: torch.dtype) -> "Coded":
        """The same with other tensors, for values of ``dtype``."""
        return Coded(replace(self.shapes, dtype=dtype), **parts)

    def decode(self) -> Tensor:
        """The values, of the shape and the dtype that were encoded.

        One operator for ``torch.compile``, ``torch.ops.lightning_adls.decode``: what a compiler
        makes of a format's arithmetic need not agree in every bit.
        """
        shapes = self.shapes
        values: Tensor = _decode(
            *(self.codes, self.shared, self.mask, str(shapes.format)),
            *(list(shapes.shape), shapes.dtype, shapes.kept),
        )
        return values


def shared_bits(fmt: NumberFormat) -> int:
    """Bits of a shared code of a format whose elements share codes and no scale.

    Raises:
        TypeError: If the format does not say.
    """
    if isinstance(fmt, BlockFormat):
        return fmt.shared_bits
    raise TypeError(f"{type(fmt).__name__} shares codes of a number of bits that is not known.")


@lru_cache(maxsize=256)
def has_zero(fmt: NumberFormat) -> bool:
    """Whether the format has a code that is zero whatever elements share."""
    return bool(fmt.decode(_zero(fmt))[0, 0] == 0)


@torch.no_grad()
def encode(
    fmt: NumberFormat, x: Tensor, scales: Tensor | None = None, mask: Tensor | None = None
) -> Coded:
    """Round a matrix and keep its codes.

    Args:
        fmt: What it is rounded to.
        x: Shape ``(rows, columns)``, floating point.
        scales: Learned scales, for the formats that have them.
        mask: Bool, of the shape of ``x``: what is false becomes zero after rounding. Codes of
            zeros or a bit for each element say so, whichever is smaller.

    Returns:
        What :meth:`Coded.decode` makes ``fmt(x, scales)`` of, masked; the sign of a zero is lost.

    Raises:
        ValueError: If ``x`` holds a NaN.

    Example:
        >>> coded = encode(parse("Integer(width=3, frac_width=1)"), torch.tensor([[0.5, -9.0]]))
        >>> coded.codes, coded.decode()
        (tensor([33], dtype=torch.uint8), tensor([[ 0.5000, -2.0000]]))
    """
    rows, columns = x.shape
    kept = None if mask is None else kept_by(fmt, mask)
    codes: list[Tensor] = []
    shared: list[Tensor] = []
    apart = fmt.rounds_rows_apart or isinstance(fmt, Integer | LearnedInteger)
    for part in _parts(rows, columns, x.device, apart):
        found, own = _codes(fmt, x[part], scales)
        if mask is not None:
            keeps = mask[part]
            found = (
                found.masked_fill(~keeps, int(_zero(fmt).codes[0, 0]))
                if kept is None
                else found[keeps]
            )
        # Where elements are left out, parts do not end with bytes: they are packed together.
        codes.append(found if kept is not None else pack_bits(found, fmt.code_bits))
        if own is not None and not own.is_floating_point():
            shared.append(pack_bits(own, shared_bits(fmt)))
        elif own is not None and not shared:  # the same for all parts
            shared.append(own)
    packed = torch.cat(codes)
    if kept is not None:
        packed = pack_bits(packed, fmt.code_bits)
    bitmap = None if mask is None or kept is None else pack_bits(mask, 1)
    shapes = CodedShapes(fmt, (rows, columns), x.dtype, kept)
    return Coded(shapes, packed, torch.cat(shared) if shared else None, bitmap)


def _codes(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Codes and what they share: looked up by the rounded values, else computed by the format."""
    if x.dtype != torch.float64 and not _holds_nan(x):
        if isinstance(fmt, BlockFormat):
            found = find_block_codes(fmt, widen(x))
            if found is not None:
                return found
        elif _shared_like(fmt, (1, 1), torch.float32) is None:
            codes = find_codes(fmt, fmt.round(widen(x)))
            if codes is not None:
                return codes, None
    encoded = fmt.encode(x, scales)  # which refuses NaN
    return encoded.codes, encoded.shared


def _holds_nan(x: Tensor) -> bool:
    # A sum is read faster; it may be NaN without one, of infinities of both signs.
    return bool(x.sum().isnan()) and bool(x.isnan().any())


def _parts(rows: int, columns: int, device: torch.device, apart: bool) -> list[slice]:
    """Rows that are computed at once: few, on a CPU, where each can be computed by itself."""
    at_once = 8 * max(PART // max(8 * columns, 1), 1)  # so that the bits of a part fill bytes
    if not apart or device.type != "cpu" or rows <= at_once:
        return [slice(0, rows)]
    return [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]


def kept_by(fmt: NumberFormat, mask: Tensor) -> int | None:
    """How many elements have a code where a mask is stored; None if zeros are stored instead."""
    kept = int(mask.sum())
    masked = mask.numel() + kept * fmt.code_bits
    return None if has_zero(fmt) and mask.numel() * fmt.code_bits <= masked else kept


def _zero(fmt: NumberFormat) -> Encoded:
    """Of a zero beside another number, because a mean of zeros alone makes any code a zero."""
    return fmt.encode(torch.tensor([[0.0, 1.0]]))


@lru_cache(maxsize=256)
def _format(text: str) -> NumberFormat:
    return parse(text)


@library.custom_op("lightning_adls::decode", mutates_args=())
def _decode(
    codes: Tensor,
    shared: Tensor | None,
    mask: Tensor | None,
    format: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    kept: int | None,
) -> Tensor:
    fmt, (rows, columns) = _format(format), shape
    if shared is not None and not shared.is_floating_point():
        count = _shared_count(fmt, torch.Size(shape))
        shared = unpack_bits(shared, shared_bits(fmt), count)
    lookup = Lookup.of(fmt, torch.Size(shape), dtype, shared, codes.device)
    codes_kept = None if kept is None else unpack_bits(codes, fmt.code_bits, kept)
    values = torch.empty((rows, columns), dtype=dtype, device=codes.device)
    # Codes of shared exponents belong to rows unless blocks have several.
    apart = shared is None or shared.is_floating_point() or fmt.rounds_rows_apart
    done = 0
    for part in _parts(rows, columns, codes.device, apart):
        place = values[part]
        if mask is None or codes_kept is None:
            first = packed_bytes(part.start * columns, fmt.code_bits)
            size = packed_bytes(place.numel(), fmt.code_bits)
            here = codes[first : first + size]
            if lookup is not None:
                lookup.of_packed(here, part, place)
                continue
            elements = unpack_bits(here, fmt.code_bits, place.numel())
            place.copy_(_values(fmt, elements, part, rows, place, shared))
            continue
        first = packed_bytes(part.start * columns, 1)
        bits = mask[first : first + packed_bytes(place.numel(), 1)]
        keeps = unpack_few(bits, 1, place.numel()).bool()
        count = int(keeps.sum())
        elements = torch.zeros(place.numel(), dtype=torch.int64, device=codes.device)
        elements[keeps] = codes_kept[done : done + count]
        done += count
        if lookup is None:
            place.copy_(_values(fmt, elements, part, rows, place, shared))
        else:
            lookup.of_codes(elements, part, place)
        place.masked_fill_(~keeps.view(place.shape), 0.0)
    return values


def _values(
    fmt: NumberFormat, elements: Tensor, part: slice, rows: int, like: Tensor, shared: Tensor | None
) -> Tensor:
    """What the codes of some rows stand for, by the format's arithmetic."""
    if shared is None:
        own = None
    elif not shared.is_floating_point():
        whole = part.stop - part.start == rows
        own = shared if whole else shared.view(rows, -1)[part]
    else:
        each_row = shared.ndim > 1 and shared.shape[-2] == rows
        own = shared[..., part, :] if each_row else shared
    return narrow(fmt.from_codes(elements.view(like.shape), own), like.dtype)


@_decode.register_fake
def _decode_fake(
    codes: Tensor,
    shared: Tensor | None,  # noqa: ARG001
    mask: Tensor | None,  # noqa: ARG001
    format: str,  # noqa: ARG001
    shape: Sequence[int],
    dtype: torch.dtype,
    kept: int | None,  # noqa: ARG001
) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=codes.device)


def _shared_count(fmt: NumberFormat, shape: torch.Size) -> int:
    bits = fmt.storage_bits(shape) - shape.numel() * fmt.code_bits
    return bits // shared_bits(fmt)


def check_parts(shapes: CodedShapes, parts: dict[str, Tensor]) -> None:
    """Refuse parts that do not belong together.

    Raises:
        ValueError: If one is missing, too many, of another dtype or shape, or the mask keeps
            another number of elements.
    """
    has = {name: (part.dtype, tuple(part.shape)) for name, part in parts.items()}
    if has != shapes.parts():
        raise InputValueError(f"Coded: parts={has} are not those of {shapes}.")
    if "mask" in parts:
        kept = int(unpack_bits(parts["mask"], 1, math.prod(shapes.shape)).sum())
        if kept != shapes.kept:
            raise InputValueError(f"Coded: mask keeps {kept} elements and not {shapes.kept}.")

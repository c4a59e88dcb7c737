"""A matrix in the codes of any number format, as many bits an element as the format says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor, library

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.formats.base import PART, narrow
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_count
from lightning_adls.kernels.bits import packed_bytes, unpack_bits, unpack_few
from lightning_adls.kernels.lookup import Lookup


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
        if isinstance(self.format, BlockFormat):
            count = block_count(torch.Size(self.shape), self.format.block_size)
            parts["shared"] = torch.uint8, (packed_bytes(count, self.format.shared_bits),)
        elif (scales := self.format.scales_shape(self.shape[0])) is not None:
            parts["shared"] = wide, scales
        if self.kept is not None:
            parts["mask"] = torch.uint8, (packed_bytes(math.prod(self.shape), 1),)
        return parts


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


def _parts(rows: int, columns: int, device: torch.device, apart: bool) -> list[slice]:
    """Rows that are computed at once: few, on a CPU, where each can be computed by itself."""
    at_once = 8 * max(PART // max(8 * columns, 1), 1)  # so that the bits of a part fill bytes
    if not apart or device.type != "cpu" or rows <= at_once:
        return [slice(0, rows)]
    return [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]


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

"""A matrix in the codes of any number format, as many bits an element as the format says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, library

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.kernels.bits import unpack_bits
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.decoding import decode


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


@lru_cache(maxsize=256)
def _format(text: str) -> NumberFormat:
    return parse(text)


# Not by `custom_op`, whose calls take as long as decoding a small weight: it is called for each.
library.define(
    "lightning_adls::decode",
    "(Tensor codes, Tensor? shared, Tensor? mask, str format, SymInt[] shape, ScalarType dtype, "
    "SymInt? kept) -> Tensor",
)
_decode: Any = torch.ops.lightning_adls.decode.default


@library.impl("lightning_adls::decode", "default")
def _decode_parts(
    codes: Tensor,
    shared: Tensor | None,
    mask: Tensor | None,
    format: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    kept: int | None,
) -> Tensor:
    rows, columns = shape
    return decode(CodedShapes(_format(format), (rows, columns), dtype, kept), codes, shared, mask)


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


library.register_fake("lightning_adls::decode", _decode_fake)


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

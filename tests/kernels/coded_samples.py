"""Matrices in codes: of hard numbers, and of codes and scales that no rounding gives."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lightning_adls.formats import NumberFormat
from lightning_adls.kernels.bits import pack_bits, packed_bytes
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.decode_torch import decode_torch
from lightning_adls.kernels.encoding import encode
from lightning_adls.kernels.lookup import Lookup


def hard(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers over 40 binades, extremes of the dtype, zeros of both signs and infinities."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x * torch.exp2(torch.randint(-20, 20, shape, generator=generator))
    # The sum of the largest of float64, which a mean would be taken of, is none.
    limits = torch.finfo(torch.float32 if dtype == torch.float64 else dtype)
    odd = [0.0, -0.0, limits.max, -limits.max, limits.tiny, -limits.smallest_normal, math.inf]
    edges = torch.tensor(odd, dtype=torch.float64)
    edge = edges[torch.randint(len(odd), shape, generator=generator)]
    rare = torch.rand(shape, generator=generator) < 0.15
    return torch.where(rare, edge, x.double()).to(dtype)


def lookup_of(coded: Coded) -> Lookup | None:
    """The tables that decode it."""
    shared = coded.shared
    scales = shared if shared is not None and shared.is_floating_point() else None
    return Lookup.of(coded.shapes, scales, coded.codes.device)


def decoded_by_torch(coded: Coded) -> Tensor:
    """By tables, and torch's operators."""
    return decode_torch(coded.shapes, lookup_of(coded), coded.codes, coded.shared, coded.mask)


def decoded_by_format(coded: Coded) -> Tensor:
    """By the format's own arithmetic."""
    return decode_torch(coded.shapes, None, coded.codes, coded.shared, coded.mask)


def any_codes(
    fmt: NumberFormat, shape: tuple[int, int], dtype: torch.dtype, share: float | None, seed: int
) -> Coded:
    """Any bits as codes of elements and blocks, and odd numbers among the scales.

    Args:
        fmt: Of the elements.
        shape: Rows and columns.
        dtype: Of the values.
        share: Of elements that a mask hides; None is no mask.
        seed: Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = None if share is None else torch.rand(shape, generator=generator) >= share
    honest = encode(fmt, torch.randn(shape, generator=generator).to(dtype))
    parts = honest.parts()
    kept = None if mask is None else int(mask.sum())
    size = packed_bytes(math.prod(shape) if kept is None else kept, fmt.code_bits)
    parts["codes"] = torch.randint(256, (size,), generator=generator, dtype=torch.uint8)
    if (shared := parts.get("shared")) is not None and shared.is_floating_point():
        odd = torch.tensor([math.nan, math.inf, 1e-45, -3.3e38, 0.0])
        places = torch.rand(shared.shape, generator=generator)
        which = torch.randint(len(odd), shared.shape, generator=generator)
        parts["shared"] = torch.where(places < 0.5, odd[which].to(shared), shared)
    elif shared is not None:
        parts["shared"] = torch.randint(256, shared.shape, generator=generator, dtype=torch.uint8)
    if mask is not None:
        parts["mask"] = pack_bits(mask, 1)
    return Coded(replace(honest.shapes, kept=kept), **parts)

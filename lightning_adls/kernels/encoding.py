"""A matrix becomes codes a part of its rows at a time, so that little is in memory beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from lightning_adls.formats import (
    ElasticBinary,
    Encoded,
    LearnedInteger,
    NumberFormat,
    ResidualSign,
)
from lightning_adls.formats.base import widen
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_max, split, tile
from lightning_adls.formats.steps import Steps
from lightning_adls.kernels import encode_cpu
from lightning_adls.kernels.bits import pack_bits, packed_bytes
from lightning_adls.kernels.code_table import CodeTable
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.coded_shapes import CodedShapes, shared_bits
from lightning_adls.kernels.lookup import find_block_codes, find_codes

# Elements of a part: what torch's operators pass over several times stays in the cache.
AT_ONCE = 1 << 16
AT_ONCE_BY_KERNELS = 1 << 18
AT_ONCE_ELSEWHERE = 1 << 22  # than on a CPU, where each operator costs a launch


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
        >>> from lightning_adls.formats import parse
        >>> coded = encode(parse("Integer(width=3, frac_width=1)"), torch.tensor([[0.5, -9.0]]))
        >>> coded.codes, coded.decode()
        (tensor([33], dtype=torch.uint8), tensor([[ 0.5000, -2.0000]]))
    """
    rows, columns = x.shape
    kept = None if mask is None else kept_by(fmt, mask)
    shapes = CodedShapes(fmt, (rows, columns), x.dtype, kept)
    parts = {
        name: torch.empty(shape, dtype=dtype, device=x.device)
        for name, (dtype, shape) in shapes.parts().items()
    }
    done = dict.fromkeys(parts, 0)
    for name, piece in encoded(fmt, x, scales, mask):
        end = done[name] + piece.numel()
        parts[name].view(-1)[done[name] : end] = piece.view(-1)
        done[name] = end
    return Coded(shapes, **parts)


@torch.no_grad()
def encoded(
    fmt: NumberFormat, x: Tensor, scales: Tensor | None = None, mask: Tensor | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The parts of what :func:`encode` gives, piece by piece.

    Returns:
        Names of parts, and what comes next in each of them.

    Raises:
        ValueError: If ``x`` holds a NaN.
    """
    fmt._check(x, scales)
    kept = None if mask is None else kept_by(fmt, mask)
    coder = _coder(fmt, x, scales)
    if mask is not None:
        coder = replace(coder, at_once=min(coder.at_once, _at_once(x)))
    scale: Tensor | None = None
    left = torch.empty(0, dtype=torch.uint8, device=x.device)  # codes that do not fill bytes
    for part in _parts(fmt, x.shape, coder):
        codes, own = coder.codes(widen(x[part]).contiguous(), part, mask is None)
        if mask is not None:
            keeps = mask[part]
            if kept is None:
                codes = codes.masked_fill(~keeps, _zero_code(fmt))
            else:
                codes = torch.cat([left.to(codes.dtype), codes.masked_select(keeps)])
                whole = codes.numel() if part.stop == len(x) else codes.numel() // 8 * 8
                codes, left = codes[:whole], codes[whole:]
                yield "mask", pack_bits(keeps, 1)
            codes = pack_bits(codes, fmt.code_bits)
        yield "codes", codes
        if own is None:
            continue
        if own.is_floating_point():
            scale = own  # of all parts
        else:
            yield "shared", pack_bits(own, shared_bits(fmt))
    if scale is not None:
        yield "shared", scale


# Of some rows codes, packed if asked for, and what elements share: codes of blocks, or the scales
# of all rows.
_Codes = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class _Coder:
    """How parts of a matrix get their codes.

    Args:
        codes: Called with rows in float32 or float64, contiguous, their place, and whether codes
            shall be packed.
        at_once: Elements of a part.
        rows_apart: Whether they may be any rows, of a format without blocks; else all.
    """

    codes: Callable[[Tensor, slice, bool], _Codes]
    at_once: int
    rows_apart: bool = True


def _coder(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> _Coder:
    by_kernels = x.dtype != torch.float64 and encode_cpu.are_worth_it(x)
    at_once = _at_once(x)
    steps = fmt.steps(x, scales)
    if steps is not None:
        at_once = AT_ONCE_BY_KERNELS if by_kernels else at_once
        return _Coder(partial(_by_steps, fmt, steps, by_kernels), at_once)
    table = CodeTable.of(fmt) if by_kernels else None
    if table is not None:
        tiles = isinstance(fmt, BlockFormat) and tile(x.shape, fmt.block_size)[0] > 1
        at_once = at_once if tiles else AT_ONCE_BY_KERNELS  # what is largest in tiles torch finds
        return _Coder(partial(_by_table, fmt, table, scales), at_once)
    if isinstance(fmt, ResidualSign):
        return _Coder(partial(_by_levels, fmt, fmt.level_scales(x, scales)), at_once)
    # The scales of these are given: of them, rows do not depend on each other.
    given = isinstance(fmt, LearnedInteger | ElasticBinary)
    apart = given or fmt.rounds_rows_apart or fmt.rounds_elements_apart
    return _Coder(partial(_computed, fmt, scales), at_once, apart)


def _at_once(x: Tensor) -> int:
    """Elements of a part that torch's operators pass over."""
    return AT_ONCE if x.device.type == "cpu" else AT_ONCE_ELSEWHERE


def _by_steps(
    fmt: NumberFormat, steps: Steps, by_kernels: bool, x: Tensor, rows: slice, packs: bool
) -> _Codes:
    width = fmt.code_bits if packs else 8
    if not by_kernels:
        fmt.check_has_codes(x)
        codes = steps.find(x, rows)
        return pack_bits(codes, width) if packs else codes, steps.shared
    codes = torch.empty(packed_bytes(x.numel(), width), dtype=torch.uint8)
    if encode_cpu.by_steps(x, steps.of_rows(rows).contiguous(), steps.codes, width, codes):
        fmt.check_has_codes(x)
    return codes if packs else codes.view(x.shape), steps.shared


def _by_table(
    fmt: NumberFormat, table: CodeTable, scales: Tensor | None, x: Tensor, rows: slice, packs: bool
) -> _Codes:
    own: Tensor | None = None
    blocks, divisors = (len(x), x.shape[1]), torch.ones(1)
    if isinstance(fmt, BlockFormat):
        assert table.exact is not None
        tall, wide = blocks = tile(x.shape, fmt.block_size)
        largest = (
            encode_cpu.largest_of_blocks(x, wide)
            if tall == 1
            else block_max(split(x, fmt.block_size)).flatten(0, 1).flatten(1)
        )
        divisors = fmt.scale(largest)
        exponents = fmt.exponent(divisors)
        least, most = (int(bound) for bound in exponents.aminmax())
        if least < table.exact[0] or most > table.exact[1]:
            return _computed(fmt, scales, x, rows, packs)
        own = exponents - fmt.shared_range[0]
    elif isinstance(fmt, LearnedInteger):
        own = divisors = fmt.step(x, scales).reshape(1)
    width = fmt.code_bits if packs else 8
    codes = torch.empty(packed_bytes(x.numel(), width), dtype=torch.uint8)
    if encode_cpu.by_table(x, divisors.contiguous(), blocks, table.entries, width, codes):
        fmt.check_has_codes(x)
    return codes if packs else codes.view(x.shape), own


def _by_levels(fmt: ResidualSign, scales: Tensor, x: Tensor, rows: slice, packs: bool) -> _Codes:
    fmt.check_has_codes(x)
    codes = fmt.codes_by(x, scales[:, rows] if fmt.scale == "per_channel" else scales)
    return pack_bits(codes, fmt.code_bits) if packs else codes, scales


def _computed(
    fmt: NumberFormat,
    scales: Tensor | None,
    x: Tensor,
    rows: slice,  # noqa: ARG001
    packs: bool,
) -> _Codes:
    """By tables of torch's operators where there are such, else by the format's arithmetic."""
    codes, own = _looked_up(fmt, x) or _encoded(fmt, x, scales)
    return pack_bits(codes, fmt.code_bits) if packs else codes, own


def _encoded(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> _Codes:
    found = fmt.encode(x, scales)  # which refuses NaN
    return found.codes, found.shared


def _looked_up(fmt: NumberFormat, x: Tensor) -> _Codes | None:
    if x.dtype == torch.float64 or bool(x.sum().isnan()):
        return None
    if isinstance(fmt, BlockFormat):
        return find_block_codes(fmt, x)
    if not fmt.rounds_elements_apart:
        return None
    codes = find_codes(fmt, fmt.round(x))
    return None if codes is None else (codes, None)


def _parts(fmt: NumberFormat, shape: torch.Size, coder: _Coder) -> list[slice]:
    """Rows of each part: whole blocks, of which eight make whole bytes, or all."""
    rows, columns = shape
    if isinstance(fmt, BlockFormat):
        tall = tile(shape, fmt.block_size)[0]
    elif coder.rows_apart:
        tall = 1
    else:
        return [slice(0, rows)]
    size = 8 * tall * max(coder.at_once // max(8 * tall * columns, 1), 1)
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


@lru_cache(maxsize=256)
def has_zero(fmt: NumberFormat) -> bool:
    """Whether the format has a code that is zero whatever elements share."""
    return bool(fmt.decode(_zero(fmt))[0, 0] == 0)


def kept_by(fmt: NumberFormat, mask: Tensor) -> int | None:
    """How many elements have a code where a mask is stored; None if zeros are stored instead."""
    kept = int(mask.count_nonzero())  # a sum would copy the mask as int64
    masked = mask.numel() + kept * fmt.code_bits
    return None if has_zero(fmt) and mask.numel() * fmt.code_bits <= masked else kept


@lru_cache(maxsize=256)
def _zero_code(fmt: NumberFormat) -> int:
    return int(_zero(fmt).codes[0, 0])


def _zero(fmt: NumberFormat) -> Encoded:
    """Of a zero beside another number, because a mean of zeros alone makes any code a zero."""
    return fmt.encode(torch.tensor([[0.0, 1.0]]))

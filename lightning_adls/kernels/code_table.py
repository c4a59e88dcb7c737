"""The codes of all float32 numbers in one table: where rounding is monotone, few entries tell them.

Numbers with the same upper 16 bits lie side by side. If at most two values of a format are nearest
to them, one boundary parts those of one code from those of the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lightning_adls.formats import LearnedInteger, NumberFormat
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.floats import power_of_two

WIDEST = 8  # bits of a code that the table has room for
_ENTRIES = 1 << 16
_INFINITY = 0x7F800000

# Codes of float32 values, divided by what they share, and the values that codes stand for.
_Codes = Callable[[Tensor], Tensor]
_Values = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CodeTable:
    """Codes by the upper halves of the bits of float32 numbers, divided by what they share.

    Args:
        entries: int32, shape ``(2**16,)``: in the lowest byte the code below a boundary, in the
            next the code from there on, in the upper half the lower 16 bits of the boundary.
        exact: The smallest and the largest shared exponent that float32 has all elements of, so
            that rounding is nothing else than to round the quotient; None without blocks.
    """

    entries: Tensor
    exact: tuple[int, int] | None

    @classmethod
    def of(cls, fmt: NumberFormat) -> "CodeTable | None":
        """That of a format; None if it cannot have one."""
        return _table(fmt)


@lru_cache(maxsize=64)
def _table(fmt: NumberFormat) -> CodeTable | None:
    if fmt.code_bits > WIDEST:
        return None
    exact = None
    if isinstance(fmt, BlockFormat):
        codes, values = _of_elements(fmt)
        exact = _exact_exponents(fmt, values(torch.arange(1 << fmt.code_bits)))
    elif isinstance(fmt, LearnedInteger) or fmt.rounds_elements_apart:
        codes, values = _of_numbers(fmt, torch.ones(1) if fmt.learns_scales else None)
    else:
        return None
    entries = _entries(codes, values, fmt.code_bits)
    return None if entries is None else CodeTable(entries, exact)


def _of_elements(fmt: BlockFormat) -> tuple[_Codes, _Values]:
    """Of elements divided by a block's scale, as each block does it."""
    one = torch.ones(1, 1, 1, 1)
    factor = power_of_two(-fmt.exponent(one), torch.float64)

    def codes(x: Tensor) -> Tensor:
        rounded = fmt.round_blocks(x.view(1, 1, -1, 1), one)
        return fmt.encode_element(rounded.double() * factor).view(-1)

    return codes, fmt.decode_element


def _of_numbers(fmt: NumberFormat, scale: Tensor | None) -> tuple[_Codes, _Values]:
    def codes(x: Tensor) -> Tensor:
        return fmt.encode(x, scale).codes

    def values(codes: Tensor) -> Tensor:
        return fmt.from_codes(codes, scale)

    return codes, values


def _exact_exponents(fmt: BlockFormat, elements: Tensor) -> tuple[int, int]:
    """Those between the two; the first is the larger one if there are none."""
    lowest, highest = fmt.shared_range
    s = torch.arange(lowest, highest + 1)
    products = elements[:, None] * power_of_two(s, torch.float64)
    exact = s[(products.float().double() == products).all(0)].tolist()
    return (exact[0], exact[-1]) if exact else (1, 0)


def _entries(codes: _Codes, values: _Values, width: int) -> Tensor | None:
    """None if more than two values meet in the numbers of an entry."""
    upper = torch.arange(_ENTRIES, dtype=torch.int64) << 16
    first, last = codes(_numbers(upper)), codes(_numbers(upper + 0xFFFF))
    known = torch.unique(values(torch.arange(1 << width)))
    place = [torch.searchsorted(known, values(each).contiguous()) for each in (first, last)]
    if bool(((place[0] - place[1]).abs() > 1).any()):
        return None
    # Where codes differ, the first number that has the last code, by halving what is between.
    changes = (first != last).nonzero().flatten()
    below, above = upper[changes], upper[changes] + 0xFFFF
    while bool((above - below > 1).any()):
        middle = (below + above) // 2
        passed = codes(_numbers(middle)) == last[changes]
        below, above = torch.where(passed, below, middle), torch.where(passed, middle, above)
    boundary = torch.zeros_like(upper)
    boundary[changes] = above & 0xFFFF
    first = first.where(first != last, last)
    return (first | last << 8 | boundary << 16).to(torch.int32)


def _numbers(bits: Tensor) -> Tensor:
    """Float32 numbers of these bits, infinity where they are a NaN."""
    magnitude = (bits & 0x7FFFFFFF).clamp(max=_INFINITY)
    return (magnitude | bits & 0x80000000).to(torch.int32).view(torch.float32)

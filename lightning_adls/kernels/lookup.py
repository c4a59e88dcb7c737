"""Tables of what each code stands for, and of which code a value has: no arithmetic of formats."""

import math
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from lightning_adls.formats import NumberFormat
from lightning_adls.formats.base import narrow
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_max, merge, split
from lightning_adls.formats.floats import power_of_two
from lightning_adls.kernels.bits import codes_of_a_word
from lightning_adls.kernels.coded_shapes import CodedShapes

WIDEST = 16  # bits of a code that has a table
WORTH_IT = 4  # elements for each entry of a table that is made for one matrix
_IN_REGISTERS = 16  # entries of a table that is faster than a rule
_TOLD_APART = 8  # bits of a code whose values have at most eight significant bits
_UPPER = 1 << 16  # upper halves of the bits of a float32


@dataclass(frozen=True)
class Multiples:
    """Codes that are integers: each stands for so many steps.

    Args:
        step: Of float32.
        sign: Whether codes are in two's complement.
    """

    step: float
    sign: bool


@dataclass(frozen=True)
class Floats:
    """Codes that are a sign, a field of the exponent and a mantissa.

    Args:
        mantissa: Its bits.
        leading: Whether there is a leading one where the field is not 0; else in no field.
        exponent: Of the step between the smallest values, ``2**exponent``.
    """

    mantissa: int
    leading: bool
    exponent: int


@dataclass(frozen=True)
class Lookup:
    """What codes stand for.

    Args:
        dtype: Of the values.
        codes: By code, float32 of shape ``(tables, 2**code_bits)``: one table, or one for each
            row. Values before they are rounded to ``dtype``; with ``factors``, elements of blocks.
        factors: What the elements of a block are multiplied by, by the code that the block has;
            float32 of shape ``(2**shared_bits,)``. None if elements share no codes. A product is
            rounded once to float32, and saturates: that is the format's value, to the last bit.
        rule: What gives the same numbers as one table; None if that is not known.
    """

    dtype: torch.dtype
    codes: Tensor
    factors: Tensor | None = None
    rule: Multiples | Floats | None = None

    @classmethod
    def of(
        cls, shapes: CodedShapes, shared: Tensor | None, device: torch.device
    ) -> "Lookup | None":
        """How codes of a matrix are looked up, or None where its format has to compute values.

        Args:
            shapes: Of the matrix.
            shared: Scales in floating point, where elements share such.
            device: Of the codes.
        """
        fmt, dtype = shapes.format, shapes.dtype
        if fmt.code_bits > WIDEST or dtype == torch.float64:
            return None
        if isinstance(fmt, BlockFormat):
            return _of_blocks(fmt, dtype, device)
        if shared is None:
            return _of_elements(fmt, dtype, device)
        rows = shapes.shape[0]
        tables = rows if shared.ndim > 1 and shared.shape[-2] == rows else 1
        size = 1 << fmt.code_bits
        if math.prod(shapes.shape) < WORTH_IT * tables * size:
            return None
        every = torch.arange(size, device=device).expand(tables, size)
        codes = narrow(fmt.from_codes(every, shared), torch.float32).contiguous()
        rule = None
        if tables == 1 and size > _IN_REGISTERS and device.type == "cpu":
            rule = _multiples(codes[0])
        return cls(dtype, codes, rule=rule)

    @cached_property
    def values(self) -> Tensor:
        """Of ``codes``, as numbers of ``dtype``; with ``factors`` they are elements."""
        return self.codes if self.factors is not None else narrow(self.codes, self.dtype)

    @cached_property
    def words(self) -> Tensor:
        """Of one table, what each word of codes stands for, shape ``(words, codes of a word)``."""
        values = self.values.flatten()
        width = len(values).bit_length() - 1
        in_word = codes_of_a_word(width)
        words = torch.arange(1 << width * in_word, dtype=torch.int32, device=values.device)
        shifts = torch.arange(in_word, dtype=torch.int32, device=values.device) * width
        return values[(words[:, None] >> shifts & ((1 << width) - 1)).long()]

    @cached_property
    def saturates(self) -> bool:
        """Whether some product of an element and a factor is too large for float32."""
        if self.factors is None:
            return False
        return not bool((self.codes.abs().max() * self.factors.max()).isfinite())


@lru_cache(maxsize=64)
def _of_elements(fmt: NumberFormat, dtype: torch.dtype, device: torch.device) -> Lookup:
    every = torch.arange(1 << fmt.code_bits, device=device)
    codes = narrow(fmt.from_codes(every, None), torch.float32)
    return Lookup(dtype, codes[None], rule=_rule(codes))


@lru_cache(maxsize=64)
def _of_blocks(fmt: BlockFormat, dtype: torch.dtype, device: torch.device) -> Lookup | None:
    """None if float32 has not all elements."""
    # Elements are doubled and factors halved: float32 has no 2**128, but 2**-128.
    wide = fmt.decode_element(torch.arange(1 << fmt.code_bits, device=device)) * 2
    codes = wide.float()
    if not torch.equal(codes.double(), wide):
        return None
    least = fmt.shared_range[0]
    exponents = torch.arange(least, least + (1 << fmt.shared_bits), device=device)
    factors = power_of_two(exponents - 1, torch.float32)
    return Lookup(dtype, codes[None], factors, _rule(codes))


def _rule(codes: Tensor) -> Multiples | Floats | None:
    """A rule that gives a table, and that is worth more than one."""
    if len(codes) <= _IN_REGISTERS or codes.device.type != "cpu":
        return None
    return _multiples(codes) or _floats(codes)


def _multiples(codes: Tensor) -> Multiples | None:
    step = codes[1]
    for sign in (True, False):
        if torch.equal(_integers(len(codes), sign) * step, codes):
            return Multiples(float(step), sign)
    return None


@lru_cache(maxsize=64)
def _integers(count: int, sign: bool) -> Tensor:
    """Of all codes in turn, float32."""
    whole = torch.arange(count, dtype=torch.float32)
    if sign:
        whole[count // 2 :] -= count
    return whole


def _floats(codes: Tensor) -> Floats | None:
    wide = codes.double()
    half = len(codes) // 2
    magnitudes, step = wide[:half], wide[1]
    if not (step > 0 and torch.equal(wide[half:], -magnitudes)):
        return None
    exponent = int(torch.frexp(step).exponent) - 1
    every = torch.arange(half)
    for leading, mantissa in product((False, True), range(half.bit_length())):
        field, whole = every >> mantissa, every & ((1 << mantissa) - 1)
        if leading:
            whole, field = whole + ((field > 0).long() << mantissa), field.clamp(min=1) - 1
        # Powers are normal numbers.
        if exponent < -126 or exponent + int(field.max()) > 127:
            continue
        if torch.equal(whole * torch.exp2((field + exponent).double()), magnitudes):
            return Floats(mantissa, leading, exponent)
    return None


@lru_cache(maxsize=64)
def _exact_exponents(fmt: BlockFormat, device: torch.device) -> tuple[int, int] | None:
    """Between which shared exponents blocks become elements, and these codes, by float32.

    None if it has not all elements.
    """
    if _of_blocks(fmt, torch.float32, device) is None:
        return None
    wide = fmt.decode_element(torch.arange(1 << fmt.code_bits, device=device))
    fractions, exponents = torch.frexp(wide[wide != 0].abs())
    # The lowest bit of a fraction of 24 bits, which is what can be lost to a small exponent.
    whole = (fractions * 2.0**24).long()
    lowest = torch.log2((whole & -whole).double()).long() + exponents - 24
    # Above 126 the reciprocal is no normal number, below -127 it is too large.
    return max(-127, -149 - int(lowest.min())), min(126, 128 - int(exponents.max()))


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
    bounds = _exact_exponents(fmt, x.device) if fmt.code_bits <= _TOLD_APART else None
    if bounds is None or not x.numel():
        return None
    blocks = split(x, fmt.block_size)
    scale = fmt.scale(block_max(blocks))
    s = fmt.exponent(scale)
    least, most = (int(bound) for bound in s.aminmax())
    if least < bounds[0] or most > bounds[1]:
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

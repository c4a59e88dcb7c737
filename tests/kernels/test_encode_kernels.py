"""Codes that C++ looks up or compares for are those of the formats' arithmetic, bit for bit."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats import LearnedInteger, NumberFormat, parse
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.kernels import compiled, encode_cpu
from lightning_adls.kernels.bits import pack_bits
from lightning_adls.kernels.code_table import CodeTable
from lightning_adls.kernels.encoding import encode

VARIANTS = (
    "Integer(width=3, frac_width=1)",
    "Integer(width=5, signed=False, rounding=floor)",
    "Log(width=3)",
    "MinifloatDenorm(width=6, exponent_width=3)",
    "MinifloatIEEE(width=8, exponent_width=6)",
    "LearnedInteger(width=3, signed=False)",
    "ResidualSign(levels=1)",
    "Ternary(scale=per_channel)",
    "BlockFP(width=4, block_size=8)",
    "BlockMinifloat(width=8, exponent_width=6)",
    "BlockLog(width=3, block_size=(2, 8))",
    "MXInt(width=3)",
    *(f"MXFP(exponent_width={e}, mantissa_width={m})" for e, m in ((5, 2), (2, 3), (3, 2), (2, 1))),
)
FORMATS = [text for text in (*NumberFormat.classes, *VARIANTS) if parse(text).code_bits <= 8]
every_format = pytest.mark.parametrize("text", FORMATS)
WITHOUT_TABLE = ("Ternary", "ElasticBinary", "ResidualSign")  # which compare

pytestmark = pytest.mark.skipif(
    not encode_cpu.KERNELS.pay(compiled.PAYS_AFTER),
    reason="there is no AVX2 or no compiler here",
)


def near_boundaries(entries: Tensor) -> Tensor:
    """Of each upper half of the bits of numbers those before, at and after the boundary."""
    upper = torch.arange(1 << 16) << 16
    boundary = entries.long() >> 16 & 0xFFFF
    bits = torch.cat([upper | (boundary + n).clamp(0, 0xFFFF) for n in (-1, 0, 1)])
    x = bits.to(torch.int32).view(torch.float32)
    return x[~x.isnan()]


def same(text: str, x: Tensor, scales: Tensor | None = None) -> None:
    fmt = parse(text)
    assert encode_cpu.are_worth_it(x)
    expected, found = fmt.encode(x, scales), encode(fmt, x, scales)
    assert torch.equal(found.codes, pack_bits(expected.codes, fmt.code_bits))


@pytest.mark.parametrize("text", [text for text in FORMATS if not text.startswith(WITHOUT_TABLE)])
def test_numbers_beside_boundaries_are_rounded_as_the_format_does(text: str) -> None:
    fmt = parse(text)
    table = CodeTable.of(fmt)
    assert table is not None
    x = near_boundaries(table.entries)
    if not isinstance(fmt, BlockFormat):
        x = torch.cat([x, x.new_zeros(-len(x) % 64)]).view(-1, 64)
        same(text, x, torch.ones(1) if isinstance(fmt, LearnedInteger) else None)
        return
    # A number in each block whose scale is one, so that the others are elements as they are.
    scale = fmt.scale(torch.ones(1))
    x = x[x.abs() < 1]
    wide = fmt.block_size[1] if isinstance(fmt.block_size, tuple) else fmt.block_size
    x = torch.cat([x, x.new_zeros(-len(x) % (8 * wide - 8))]).view(-1, 8, wide - 1) * scale
    same(text, torch.cat([torch.ones_like(x[..., :1]), x], 2).flatten(1))


@every_format
def test_ties_and_their_neighbours_are_rounded_as_the_format_does(text: str) -> None:
    fmt = parse(text)
    scales = fmt.initial_scales()
    x = torch.linspace(-3, 3, 4096).view(64, 64)
    values = fmt(x, scales).unique()
    ties = ((values[1:].double() + values[:-1].double()) / 2).float()
    ends = ties.new_tensor(math.inf)
    numbers = torch.cat([values, ties, ties.nextafter(ends), ties.nextafter(-ends)])
    numbers = torch.cat([numbers, -numbers, x.flatten()])
    order = torch.randint(len(numbers), (1024, 96), generator=torch.Generator().manual_seed(0))
    same(text, numbers[order], scales)


@every_format
@pytest.mark.parametrize("columns", [1, 7, 33, 1031])
def test_rows_end_anywhere(text: str, columns: int) -> None:
    rows = encode_cpu.WORTH_IT // columns + 3
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(rows, columns, generator=generator)
    x[::5] *= torch.exp2(torch.randint(-140, 100, (1, columns), generator=generator))
    x[1::7, ::3] = math.inf
    same(text, x, parse(text).initial_scales())


@every_format
def test_a_nan_is_refused_wherever_it_is(text: str) -> None:
    for place in (0, -1):
        x = torch.zeros(encode_cpu.WORTH_IT + 8).view(-1, 8)
        x.view(-1)[place] = math.nan
        with pytest.raises(InputValueError, match="1 NaN"):
            encode(parse(text), x)


def test_without_a_compiler_torch_does_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = torch.randn(256, 256)
    by_kernels = encode(parse("MXInt"), x)
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    without = compiled.Kernels("encode", ("avx2",), "weights are encoded", lambda _: None)
    monkeypatch.setattr(encode_cpu, "KERNELS", without)
    assert not without.pay(compiled.PAYS_AFTER)
    by_torch = encode(parse("MXInt"), x)
    for name, part in by_kernels.parts().items():
        assert torch.equal(by_torch.parts()[name], part)

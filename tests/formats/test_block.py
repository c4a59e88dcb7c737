"""Block formats against their definitions, one block at a time in exact arithmetic."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from oracle import mixed, nearest, nearest_power, round_exactly, rows, table
from torch import Tensor

from lightning_adls.formats import (
    MXFP,
    BlockFP,
    BlockLog,
    BlockMinifloat,
    Log,
    MinifloatIEEE,
    MXInt,
    NumberFormat,
)
from lightning_adls.formats.block_base import BlockFormat


def blocks_of_all_sizes(size: int = 12) -> Tensor:
    """Blocks, shape ``(blocks, size)``, whose maxima lie all over the range of float32."""
    exponents = torch.tensor([-149, -140, -128, -127, -126, -120, -100, -20, 0, 20, 100, 126, 127])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, len(exponents), size, generator=generator, dtype=torch.float64) * 2 - 1
    x *= torch.exp2(torch.randint(-12, 1, x.shape, generator=generator))
    x[..., 0] = torch.tensor([1.0, 2 - 2**-23, 1.99, 1.5, 1.42, 1.41])[:, None]
    return (x * torch.exp2(exponents.double())[:, None]).float().reshape(-1, size)


def floor_log2(block: list[float], zero: int) -> int:
    largest = max(abs(value) for value in block)
    return math.frexp(largest)[1] - 1 if largest else zero


def limit(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def block_fp(fmt: BlockFP, block: list[float]) -> list[float]:
    bias = fmt.exponent_bias
    bias = 2 ** (fmt.exponent_width - 1) - 1 if bias is None else bias
    e = limit(floor_log2(block, -999) + 1, -bias, 2**fmt.exponent_width - 1 - bias)
    m, results = fmt.width - 1, []
    for value in block:
        whole = round(abs(Fraction(value)) / Fraction(2) ** (e - m))
        whole = min(whole, 2**m - 2 ** max(0, m - 24))  # float32 holds no larger one
        results.append(math.copysign(float(whole * Fraction(2) ** (e - m)), value))
    return results


def block_minifloat(fmt: BlockMinifloat, block: list[float]) -> list[float]:
    half = 2 ** (fmt.exponent_bias_width - 1)
    s = limit(floor_log2(block, -999), 1 - half, half)
    m = fmt.width - 1 - fmt.exponent_width
    largest = float((2 - Fraction(2) ** -min(m, 23)) * Fraction(2) ** s)
    return [round_exactly(x, m, s + 2 - 2**fmt.exponent_width, largest) for x in block]


def block_log(fmt: BlockLog, block: list[float]) -> list[float]:
    half = 2 ** (fmt.exponent_bias_width - 1)
    power = nearest_power(max(abs(x) for x in block), -150, 127)
    top = limit(floor_log2([power], -999), 2 - half, half + 1)
    return [nearest_power(x, max(top + 2 - 2 ** (fmt.width - 1), -150), top) for x in block]


BLOCK_FP = [BlockFP(width=w, block_size=b) for w in (2, 3, 4, 8, 16, 24, 32) for b in (16, 32)]
BLOCK_FP += [BlockFP(8, 3), BlockFP(8, 8, 100), BlockFP(8, 8, -20), BlockFP(8, 4, 127)]
BLOCK_MINIFLOAT = [BlockMinifloat(w, 2, block_size=16) for w in (4, 5, 8, 16, 32)]
BLOCK_MINIFLOAT += [BlockMinifloat(w, e) for w in (16, 32) for e in (1, 4, 6, 7, 8)]
BLOCK_MINIFLOAT += [BlockMinifloat(8, 4, exponent_bias_width=b) for b in (1, 2, 5, 8)]
BLOCK_LOG = [BlockLog(width=w, block_size=32) for w in (2, 3, 4, 6, 7, 8, 9, 10, 16, 32)]
BLOCK_LOG += [BlockLog(4, exponent_bias_width=b) for b in (1, 2, 5, 7)]


@pytest.mark.parametrize("fmt", BLOCK_FP, ids=str)
def test_block_fp_follows_its_definition(fmt: BlockFP) -> None:
    x = blocks_of_all_sizes()
    expected = [block_fp(fmt, block) for block in x.tolist()]
    assert torch.equal(fmt(x), torch.tensor(expected))


@pytest.mark.parametrize("fmt", BLOCK_MINIFLOAT, ids=str)
def test_block_minifloat_follows_its_definition(fmt: BlockMinifloat) -> None:
    x = blocks_of_all_sizes()
    expected = [block_minifloat(fmt, block) for block in x.tolist()]
    assert torch.equal(fmt(x), torch.tensor(expected))


@pytest.mark.parametrize("fmt", BLOCK_LOG, ids=str)
def test_block_log_follows_its_definition(fmt: BlockLog) -> None:
    x = blocks_of_all_sizes()
    expected = [block_log(fmt, block) for block in x.tolist()]
    assert torch.equal(fmt(x), torch.tensor(expected))


@given(x=rows)
def test_block_formats_follow_their_definitions_on_any_row(x: Tensor) -> None:
    fp, minifloat, log = BlockFP(5), BlockMinifloat(6, 3), BlockLog(5)
    for part in x.split(16):
        assert fp(part).tolist() == block_fp(fp, part.tolist())
        assert minifloat(part).tolist() == block_minifloat(minifloat, part.tolist())
        assert log(part).tolist() == block_log(log, part.tolist())


@pytest.mark.parametrize(
    "fmt",
    [
        BlockFP(4, block_size=16),
        BlockFP(8, block_size=256),
        BlockMinifloat(5, 2, block_size=32),
        BlockMinifloat(8, 4, block_size=256),
        MXInt(4, block_size=16),
        MXInt(8, block_size=256),
        *(MXFP(e, m, block_size=2 ** (1 + e + m)) for e, m in ((4, 3), (5, 2), (3, 2), (2, 1))),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_of_the_decoded_codes_is_found(fmt: BlockFormat, seed: int) -> None:
    size = 2**fmt.code_bits  # so that all codes are one block
    for x in (torch.randn(size) * 10.0**seed, mixed(size, seed=seed).clamp(-1e30, 1e30)):
        values, codes = table(fmt, fmt.encode(x).shared)
        _, high = fmt.limits(x)
        used = values.abs() <= torch.as_tensor(high)[0]  # not the codes for -2 or NaN
        assert torch.equal(fmt(x).double(), nearest(x, values[used], codes[used]))


@pytest.mark.parametrize("s", [-20, 0, 5])
def test_a_block_is_an_element_format_with_a_bias_of_its_own(s: int) -> None:
    x = torch.randn(16).clamp(-1, 1)
    x[3] = 1.3  # the largest, in the binade of 1
    x = x * 2.0**s
    assert torch.equal(BlockMinifloat(8, 4)(x), MinifloatIEEE(8, 4, exponent_bias=15 - s)(x))
    assert torch.equal(BlockLog(5)(x), Log(5, exponent_bias=15 - s)(x))


def test_a_larger_maximum_gives_a_larger_range() -> None:
    """The sign of the shared bias is easily turned round, and then a block becomes zeros."""
    for scale in (1e-3, 1.0, 1e3):
        x = torch.randn(4, 64) * scale
        for fmt in (BlockFP(), BlockMinifloat(), BlockLog()):
            error = (fmt(x) - x).norm() / x.norm()
            assert error < 0.25


def test_a_tile_shares_over_rows_and_columns() -> None:
    x = torch.ones(5, 7)
    x[0, 0] = 1000.0
    rounded = BlockFP(width=4, block_size=(2, 3))(x)
    expected = torch.ones(5, 7)
    expected[:2, :3] = 0.0
    expected[0, 0] = 1024.0 * 7 / 8
    assert torch.equal(rounded, expected)
    shared = BlockFP(block_size=(2, 3)).encode(x).shared
    assert shared is not None
    assert shared.shape == (3, 3)


@pytest.mark.parametrize(
    ("shape", "block_size", "shared_shape"),
    [
        ((37,), 16, (3,)),
        ((37,), (4, 16), (3,)),
        ((5, 37), 16, (5, 3)),
        ((5, 37), (4, 16), (2, 3)),
        ((2, 3, 5, 37), (4, 16), (2, 3, 2, 3)),
    ],
)
def test_shared_codes_have_the_shape_of_the_blocks(
    shape: tuple[int, ...], block_size: int | tuple[int, int], shared_shape: tuple[int, ...]
) -> None:
    shared = BlockFP(block_size=block_size).encode(torch.randn(shape)).shared
    assert shared is not None
    assert shared.shape == shared_shape


@pytest.mark.parametrize(
    ("block_size", "shape", "explicit"),
    [
        (-1, (5, 37), 37),
        ((1, -1), (5, 37), 37),
        ((-1, 16), (5, 37), (5, 16)),
        ((2, -1), (5, 37), (2, 37)),
        ((-1, -1), (5, 37), (5, 37)),
        ((-1, 16), (2, 3, 5, 37), (5, 16)),
        ((-1, 16), (37,), 16),
        (-1, (37,), 37),
    ],
)
@pytest.mark.parametrize("cls", [BlockFP, BlockMinifloat, BlockLog, MXInt, MXFP])
def test_minus_one_is_a_whole_dimension(
    cls: type[BlockFormat],
    block_size: int | tuple[int, int],
    shape: tuple[int, ...],
    explicit: int | tuple[int, int],
) -> None:
    x = torch.randn(shape) * torch.exp2(torch.randint(-6, 6, shape))
    whole, same = cls(block_size=block_size), cls(block_size=explicit)
    assert torch.equal(whole(x), same(x))
    assert torch.equal(whole.decode(whole.encode(x)), same(x))
    assert whole.storage_bits(shape) == same.storage_bits(shape)
    assert NumberFormat.parse(str(whole)) == whole


def test_the_bits_of_a_whole_dimension_leave_out_what_it_shares() -> None:
    assert BlockFP(block_size=(-1, 16)).bits == 8
    assert BlockFP(block_size=16).bits == 8.5


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 4)])
def test_an_empty_dimension_has_no_blocks(shape: tuple[int, ...]) -> None:
    fmt = BlockFP(block_size=(-1, -1))
    assert fmt(torch.empty(shape)).shape == shape
    assert fmt.storage_bits(shape) == 0


def test_blocks_run_along_the_last_dimension() -> None:
    x = torch.tensor([[1000.0, 1.0], [1.0, 1.0]])
    assert BlockFP(width=4, block_size=2)(x).tolist() == [[896.0, 0.0], [1.0, 1.0]]


def test_every_format_of_the_lab_search_exists() -> None:
    x = torch.randn(4, 64)
    for width in range(2, 33):
        for size in (16, 32):
            assert (BlockFP(width, block_size=size)(x) - x).abs().max() < 4 * 2.0 ** (2 - width)
            assert BlockLog(width, block_size=size)(x).isfinite().all()
            if width > 3:
                assert BlockMinifloat(width, 2, block_size=size)(x).isfinite().all()


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (BlockFP, {"width": 1}, r"BlockFP: width=1 is not in 2\.\.32; for one bit use Binary"),
        (BlockFP, {"exponent_width": 9}, r"BlockFP: exponent_width=9 is not in 1\.\.8"),
        (BlockFP, {"exponent_bias": 128}, r"BlockFP: exponent_bias=128 is not in -127\.\.127"),
        (BlockFP, {"block_size": 0}, r"BlockFP: block_size=0 is not a block; .*\(rows, columns\)"),
        (
            BlockFP,
            {"block_size": -2},
            r"BlockFP: block_size=-2 is not a block; .* -1 is a whole dim",
        ),
        (BlockFP, {"block_size": (0, 16)}, r"BlockFP: block_size=\(0, 16\) is not a block"),
        (BlockFP, {"block_size": True}, r"BlockFP: block_size=True is not a block"),
        (BlockFP, {"block_size": (4,)}, r"BlockFP: block_size=\(4,\) is not a block"),
        (BlockFP, {"block_size": (4, 2.0)}, r"BlockFP: block_size=\(4, 2\.0\) is not a block"),
        (BlockMinifloat, {"exponent_width": 7}, "BlockMinifloat: .* no mantissa bit in width=8"),
        (BlockMinifloat, {"exponent_bias_width": 0}, r"exponent_bias_width=0 is not in 1\.\.8"),
        (BlockLog, {"exponent_bias_width": 9}, r"BlockLog: exponent_bias_width=9 is not in 1"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    cls: type[BlockFP], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**arguments)

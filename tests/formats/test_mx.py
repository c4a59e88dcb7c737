"""MX formats against ml_dtypes, which has their elements and their scale."""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from oracle import mixed, table
from test_block import blocks_of_all_sizes, floor_log2, limit

from lightning_adls.formats import MXFP, MXInt

ELEMENTS = {
    (4, 3): ml_dtypes.float8_e4m3fn,
    (5, 2): ml_dtypes.float8_e5m2,
    (2, 3): ml_dtypes.float6_e2m3fn,
    (3, 2): ml_dtypes.float6_e3m2fn,
    (2, 1): ml_dtypes.float4_e2m1fn,
}
PAIRS = pytest.mark.parametrize("pair", ELEMENTS, ids=str)


@PAIRS
def test_elements_and_scales_are_those_of_ml_dtypes(pair: tuple[int, int]) -> None:
    fmt, element = MXFP(*pair, block_size=12), ELEMENTS[pair]
    largest = float(ml_dtypes.finfo(element).max)
    x = torch.cat([blocks_of_all_sizes(), mixed(200, 12)])
    for block, rounded in zip(x.tolist(), fmt(x).tolist(), strict=True):
        s = limit(floor_log2(block, -999) - math.frexp(largest)[1] + 1, -127, 127)
        scale = float(np.float64(2.0**s).astype(ml_dtypes.float8_e8m0fnu).astype(np.float64))
        assert scale == 2.0**s
        elements = np.clip(np.array(block) / scale, -largest, largest).astype(np.float32)
        assert rounded == (elements.astype(element).astype(np.float64) * scale).tolist()


@PAIRS
def test_codes_are_the_bit_patterns_of_ml_dtypes(pair: tuple[int, int]) -> None:
    fmt, element = MXFP(*pair), ELEMENTS[pair]
    patterns = np.arange(2**fmt.code_bits, dtype=np.uint8)
    theirs = patterns.view(element).astype(np.float64)
    largest = float(ml_dtypes.finfo(element).max)
    theirs = theirs[np.abs(theirs) <= largest]  # neither NaN nor infinity
    values, codes = table(fmt, torch.full((2**fmt.code_bits // 32 or 1,), 127))
    held = values.abs() <= largest
    assert set(theirs.tolist()) == set(values[held].tolist())
    assert (patterns.view(element).astype(np.float64)[codes[held]] == values[held].numpy()).all()
    encoded = fmt.encode(mixed(64) * 1e-3)
    assert encoded.codes.max() < 2**fmt.code_bits


@PAIRS
def test_shared_codes_are_those_of_e8m0(pair: tuple[int, int]) -> None:
    shared = MXFP(*pair).encode(mixed(20, 32)).shared
    assert shared is not None
    largest = float(ml_dtypes.finfo(ELEMENTS[pair]).max)
    maxima = mixed(20, 32).abs().amax(-1)
    scales = shared.numpy().astype(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    inside = maxima > 2.0**-100
    ratio = maxima.double()[inside] / torch.from_numpy(scales)[inside, 0]
    top = 2.0 ** (math.frexp(largest)[1] - 1)
    assert ((ratio >= top) & (ratio < 2 * top)).all()


def test_a_carry_into_the_next_binade_is_kept() -> None:
    assert MXFP(4, 3)(torch.tensor([1.94, 2.0])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("width", [2, 3, 4, 8, 16, 24, 32])
def test_mxint_follows_its_definition(width: int) -> None:
    fmt, x = MXInt(width, block_size=12), blocks_of_all_sizes()
    largest = 2 ** (width - 1) - 1 if width <= 25 else 2 ** (width - 1) - 2 ** (width - 25)
    for block, rounded in zip(x.tolist(), fmt(x).tolist(), strict=True):
        step = Fraction(2) ** (limit(floor_log2(block, -999), -127, 127) - width + 2)
        wholes = [limit(round(Fraction(value) / step), -largest, largest) for value in block]
        assert rounded == [float(whole * step) for whole in wholes]


def test_mxint8_has_no_minus_two() -> None:
    x = torch.tensor([-1.999, 1.0])
    assert MXInt()(x).tolist() == [-127 / 64, 1.0]
    assert -2.0 in table(MXInt(), torch.full((8,), 127))[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mantissa_width": 2}, r"MXFP: mantissa_width=2 is no OCP element .* use .*\(4, 3\)"),
        ({"exponent_width": 6}, r"MXFP: exponent_width=6 is not in 2\.\.5"),
        ({"mantissa_width": 3.0}, r"MXFP: mantissa_width=3\.0 is a float"),
        ({"block_size": "32"}, r"MXFP: block_size='32' is not a block"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MXFP(**arguments)

"""Minifloats against a search over their values, ml_dtypes, and torch's own small floats."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from oracle import around, mixed, nearest, round_exactly, table

from lightning_adls.formats import MinifloatDenorm, MinifloatIEEE

PARAMETERS = [(3, 1, None), (4, 2, None), (5, 2, 7), (6, 3, 15), (8, 4, None), (8, 2, 3)]
PARAMETERS += [(8, 6, None), (10, 8, None), (10, 8, 100), (9, 3, -5), (10, 2, 127), (8, 5, -126)]
PARAMETERS += [(8, 4, -92), (8, 4, -93)]  # the last that float32 can round, and the first it cannot
BOTH = [MinifloatIEEE, MinifloatDenorm]


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(("width", "exponent_width", "exponent_bias"), PARAMETERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_value_is_found_and_ties_go_to_the_even_code(
    cls: type[MinifloatIEEE],
    width: int,
    exponent_width: int,
    exponent_bias: int | None,
    dtype: torch.dtype,
) -> None:
    fmt = cls(width, exponent_width, exponent_bias)
    values, codes = table(fmt)
    held = values == values.to(dtype).double()  # float32 does not hold the extremes of some
    x = torch.cat([around(values[held], dtype), mixed(500).to(dtype)])
    x = x[x.isfinite()]
    assert torch.equal(fmt(x).double(), nearest(x, values[held], codes[held]))


@pytest.mark.parametrize(("width", "exponent_width", "exponent_bias"), PARAMETERS)
def test_codes_stand_for_the_values_of_the_definition(
    width: int, exponent_width: int, exponent_bias: int | None
) -> None:
    m = width - 1 - exponent_width
    b = 2 ** (exponent_width - 1) - 1 if exponent_bias is None else exponent_bias
    ieee, denorm = set(), set()
    for e in range(2**exponent_width):
        for mantissa in range(2**m):
            leading = 0 if e == 0 else 1
            ieee.add(math.ldexp(leading + mantissa / 2**m, max(e, 1) - b))
            denorm.add(math.ldexp(mantissa / 2**m, e - b))
    for cls, magnitudes in ((MinifloatIEEE, ieee), (MinifloatDenorm, denorm)):
        values = table(cls(width, exponent_width, exponent_bias))[0]
        assert values.tolist() == sorted(magnitudes | {-value for value in magnitudes})


def test_a_value_of_several_codes_gets_the_one_of_smallest_exponent() -> None:
    fmt = MinifloatDenorm(width=6, exponent_width=2)
    values, codes = table(fmt)  # the lowest codes
    positive = values > 0
    assert torch.equal(fmt.encode(values[positive]).codes, codes[positive])


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (MinifloatIEEE(6, 2), ml_dtypes.float6_e2m3fn),
        (MinifloatIEEE(6, 3), ml_dtypes.float6_e3m2fn),
        (MinifloatIEEE(4, 2), ml_dtypes.float4_e2m1fn),
        (MinifloatIEEE(8, 4), ml_dtypes.float8_e4m3fn),
        (MinifloatIEEE(8, 5), ml_dtypes.float8_e5m2),
        (MinifloatIEEE(16, 8), ml_dtypes.bfloat16),
        (MinifloatIEEE(16, 5), np.float16),
    ],
    ids=str,
)
def test_ml_dtypes_agrees_up_to_its_largest_value(fmt: MinifloatIEEE, dtype: type) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    halves = torch.arange(-64, 65) * (smallest / 4)
    x = torch.cat([mixed(5000), torch.randn(5000) * largest / 3, halves]).clamp(-largest, largest)
    theirs = torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))
    assert torch.equal(fmt(x), theirs)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (MinifloatIEEE(8, 4), torch.float8_e4m3fn),
        (MinifloatIEEE(8, 5), torch.float8_e5m2),
        (MinifloatIEEE(16, 8), torch.bfloat16),
        (MinifloatIEEE(16, 5), torch.float16),
    ],
    ids=str,
)
def test_the_dtypes_of_torch_agree_in_value_and_code(
    fmt: MinifloatIEEE, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    x = torch.cat([mixed(5000), torch.randn(5000) * largest / 3]).clamp(-largest, largest)
    x[x == 0] = 0.0
    theirs = x.to(dtype)
    integer = torch.uint8 if fmt.width == 8 else torch.int16
    nonzero = theirs.float() != 0  # the sign of a zero is not kept
    assert torch.equal(fmt(x), theirs.float())
    bits = theirs.view(integer).long() & (2**fmt.width - 1)
    assert torch.equal(fmt.encode(x).codes[nonzero], bits[nonzero])


@pytest.mark.parametrize(
    ("width", "exponent_width", "exponent_bias"),
    [(32, 2, 3), (32, 3, 15), (32, 4, 7), (27, 4, None), (28, 4, None), (24, 2, 127), (32, 8, 127)],
)
def test_wide_minifloats_agree_with_exact_arithmetic(
    width: int, exponent_width: int, exponent_bias: int | None
) -> None:
    fmt = MinifloatIEEE(width, exponent_width, exponent_bias)
    b = 2 ** (exponent_width - 1) - 1 if exponent_bias is None else exponent_bias
    m, top = width - 1 - exponent_width, min(2**exponent_width - 1 - b, 127)
    largest = math.ldexp(2 - 2.0 ** -min(m, 23), top)
    tiny = torch.randn(500) * 2.0 ** torch.randint(-149, 1 - b + 3, (500,)).clamp(min=-140)
    x = torch.cat([mixed(500), tiny])
    expected = [round_exactly(value, m, 1 - b, largest) for value in x.tolist()]
    assert torch.equal(fmt(x), torch.tensor(expected))


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("exponent_width", [2, 3, 4])
@pytest.mark.parametrize("exponent_bias", [3, 7, 15])
@pytest.mark.parametrize("cls", BOTH)
def test_every_format_of_the_lab_search_rounds_finely_within_its_range(
    cls: type[MinifloatIEEE], width: int, exponent_width: int, exponent_bias: int
) -> None:
    fmt = cls(width, exponent_width, exponent_bias)
    _, high = fmt.limits(torch.ones(1))
    x = torch.linspace(0.5, 1.0, 100) * high
    digits = width - 1 - exponent_width - (cls.__name__ == "MinifloatDenorm")
    assert ((fmt(x) - x).abs() <= x * 2.0 ** -(digits + 1)).all()


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"exponent_width": 7},
            "exponent_width=7 leaves no mantissa bit in width=8; use at most 6",
        ),
        ({"width": 2}, r"width=2 is not in 3\.\.32; sign, exponent and mantissa"),
        ({"exponent_width": 9}, r"exponent_width=9 is not in 1\.\.8; float32 has 8"),
        ({"exponent_bias": 128}, r"exponent_bias=128 is not in -126\.\.127; .* float32"),
        ({"exponent_bias": "7"}, r"exponent_bias='7' is a str; an integer"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    cls: type[MinifloatIEEE], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__}: {message}"):
        cls(**arguments)

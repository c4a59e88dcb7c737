"""Integer against a search over its values, torch's fake quantisation, and exact fractions."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import around, mixed, nearest, table

from lightning_adls.formats import Integer

PARAMETERS = [(2, 0), (4, 2), (4, 8), (6, -3), (8, 4), (8, 20), (10, 5)]


@pytest.mark.parametrize(("width", "frac_width"), PARAMETERS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_value_is_found_and_ties_go_to_the_even_code(
    width: int, frac_width: int, signed: bool, dtype: torch.dtype
) -> None:
    fmt = Integer(width, frac_width, signed=signed)
    values, codes = table(fmt)
    x = torch.cat([around(values, dtype), mixed(500).to(dtype)])
    assert torch.equal(fmt(x).double(), nearest(x, values, codes))


@pytest.mark.parametrize(("width", "frac_width"), PARAMETERS)
def test_codes_stand_for_multiples_of_the_step(width: int, frac_width: int) -> None:
    half = 2 ** (width - 1)
    assert torch.equal(
        table(Integer(width, frac_width))[0], torch.arange(-half, half).double() / 2.0**frac_width
    )
    assert torch.equal(
        table(Integer(width, frac_width, signed=False))[0],
        torch.arange(2 * half).double() / 2.0**frac_width,
    )


@pytest.mark.parametrize(("width", "frac_width"), PARAMETERS)
def test_torch_fake_quantisation_agrees(width: int, frac_width: int) -> None:
    half = 2 ** (width - 1)
    x = mixed(5000).clamp(-1e8, 1e8)  # torch's own goes through int32, wrapping round beyond it
    theirs = torch.fake_quantize_per_tensor_affine(x, 2.0**-frac_width, 0, -half, half - 1)
    inside = (x * 2.0**frac_width).abs() < 2**31
    assert inside.sum() > 1000
    assert torch.equal(Integer(width, frac_width)(x)[inside], theirs[inside])


@given(
    x=st.floats(allow_nan=False, allow_infinity=False, width=32),
    width=st.integers(2, 20),
    frac_width=st.integers(-40, 60),
)
def test_floor_goes_down_to_the_next_multiple(x: float, width: int, frac_width: int) -> None:
    half = 2 ** (width - 1)
    whole = min(max(math.floor(Fraction(x) * Fraction(2) ** frac_width), -half), half - 1)
    rounded = Integer(width, frac_width, rounding="floor")(torch.tensor([x]))
    assert Fraction(rounded.item()) == whole / Fraction(2) ** frac_width


def test_widths_above_24_keep_what_float32_holds_and_stay_in_range() -> None:
    fmt = Integer(width=32, frac_width=4)
    x = torch.tensor([2.0**27, 1e30, -1e30, 123456.7])
    assert fmt(x).tolist() == [2.0**27 - 8, 2.0**27 - 8, -(2.0**27), 123456.6875]
    exact = fmt(torch.tensor([1e30], dtype=torch.float64))
    assert exact.item() == (2**31 - 1) / 16


def test_float16_saturates_where_the_values_outgrow_it() -> None:
    x = torch.tensor([65504.0, math.inf, -math.inf], dtype=torch.float16)
    assert Integer(width=20, frac_width=-6)(x).tolist() == [65504.0, 65504.0, -65504.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 1}, r"Integer: width=1 is not in 2\.\.32; for one bit use Binary\."),
        ({"width": 8.0}, r"Integer: width=8\.0 is a float; an integer in 2\.\.32 is needed\."),
        ({"width": True}, r"Integer: width=True is a bool; an integer"),
        ({"frac_width": None}, r"Integer: frac_width=None is a NoneType; an integer"),
        ({"frac_width": 127}, r"Integer: frac_width=127 is not in -120\.\.126; .* float32"),
        ({"rounding": "up"}, r"Integer: rounding='up' is not a choice; use 'nearest' or 'floor'"),
        ({"signed": 1}, r"Integer: signed=1 is not a choice; use True or False"),
        ({"ste": "none"}, r"Integer: ste='none' is not a choice; use 'identity' or 'clipped'"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Integer(**arguments)

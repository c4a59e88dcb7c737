"""Ternary against thresholds and means taken in Python."""

import math
from typing import Any

import pytest
import torch
from oracle import mixed

from lightning_adls.formats import Ternary


def ternary(row: list[float], threshold: float, scaled: bool) -> list[float]:
    boundary = threshold * math.fsum(abs(x) for x in row) / len(row)
    kept = [abs(x) for x in row if abs(x) > boundary]
    scale = math.fsum(kept) / max(len(kept), 1) if scaled else 1.0
    return [math.copysign(scale, x) if abs(x) > boundary else 0.0 for x in row]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("scale", ["none", "per_tensor", "per_channel"])
def test_elements_above_the_threshold_become_the_scale(scale: str, threshold: float) -> None:
    fmt = Ternary(scale, threshold)
    for x in (torch.randn(6, 50), mixed(6, 50)):
        if scale == "per_channel":
            expected = [ternary(row, threshold, True) for row in x.tolist()]
        else:
            expected = [ternary(x.flatten().tolist(), threshold, scale != "none")]
        torch.testing.assert_close(fmt(x), torch.tensor(expected).view(6, 50))


def test_an_element_at_the_threshold_is_zero() -> None:
    x = torch.tensor([3.0, -3.0, 4.0, 6.0])  # the mean is 4
    assert Ternary()(x).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_nan_and_infinity_neither_count_nor_spread() -> None:
    x = torch.tensor([math.nan, math.inf, 1.0, -4.0, 1.0, -math.inf])
    rounded = Ternary(scale="per_tensor")(x)
    expected = torch.tensor([math.nan, 4.0, 0.0, -4.0, 0.0, -4.0])
    torch.testing.assert_close(rounded, expected, equal_nan=True, rtol=0, atol=0)


def test_codes_are_two_bits_in_twos_complement() -> None:
    encoded = Ternary().encode(torch.tensor([0.0, 1.0, -1.0]))
    assert encoded.codes.tolist() == [0, 1, 3]
    assert encoded.shared is None


def test_an_element_exactly_at_the_scale_keeps_its_gradient() -> None:
    x = torch.tensor([1.0, -1.0, 0.1, -1.5], requires_grad=True)
    Ternary(ste="clipped")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.0}, r"Ternary: threshold=1\.0 is not in 0 <= value < 1"),
        ({"threshold": math.nan}, r"Ternary: threshold=nan is not in 0 <= value < 1"),
        ({"threshold": "0.7"}, r"Ternary: threshold='0\.7' is a str; a number is needed"),
        ({"threshold": False}, r"Ternary: threshold=False is a bool; a number is needed"),
        ({"scale": None}, r"Ternary: scale=None is not a choice"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Ternary(**arguments)

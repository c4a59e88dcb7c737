"""Log against a search that compares geometric means exactly."""

from typing import Any

import pytest
import torch
from oracle import EDGES, around, mixed, nearest_power, table
from torch import Tensor

from lightning_adls.formats import Log


def root_two_points(lowest: int, highest: int) -> Tensor:
    """Floats on both sides of the boundaries between powers of two."""
    exponents = torch.arange(lowest - 2, highest + 2).clamp(-148, 126)
    return around(2.0 ** exponents.double() * 2**0.5, torch.float32)


@pytest.mark.parametrize(
    ("width", "exponent_bias", "lowest", "highest"),
    [
        (2, None, 1, 1),
        (3, None, 0, 2),
        (4, 3, -2, 4),
        (6, 15, -14, 16),
        (8, None, -62, 64),
        (8, 3, -2, 124),
        (8, 15, -14, 112),
        (8, 126, -125, 1),
        (8, 127, -126, 0),
        (8, 150, -149, -23),
        (8, 200, -199, -73),
        (8, -100, 101, 227),
    ],
)
def test_the_nearest_power_in_the_log_domain_is_found(
    width: int, exponent_bias: int | None, lowest: int, highest: int
) -> None:
    x = torch.cat([root_two_points(lowest, highest), EDGES, -EDGES, mixed(50)])
    x = x[x.isfinite()]
    expected = [nearest_power(value, lowest, min(highest, 127)) for value in x.tolist()]
    assert torch.equal(Log(width, exponent_bias)(x), torch.tensor(expected))


@pytest.mark.parametrize("fmt", [Log(16), Log(32), Log(32, exponent_bias=1000)], ids=str)
def test_powers_that_float32_lacks_are_left_out(fmt: Log) -> None:
    x = torch.cat([EDGES, -EDGES, mixed(50)])
    expected = [nearest_power(value, -149, 127) for value in x.tolist()]
    assert torch.equal(fmt(x), torch.tensor(expected))


def test_float64_has_the_powers_that_float32_lacks() -> None:
    x = torch.tensor([1e300, 1e-300, -1e-310], dtype=torch.float64)
    assert Log(width=32)(x).tolist() == [2.0**997, 2.0**-997, 0.0]


def test_codes_stand_for_the_values_of_the_definition() -> None:
    for width, bias in ((2, 0), (5, 7), (8, 63)):
        powers = {2.0 ** (code - bias) for code in range(1, 2 ** (width - 1))}
        values = table(Log(width, bias))[0]
        assert values.tolist() == sorted(powers | {0.0} | {-power for power in powers})


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("exponent_bias", [3, 7, 15])
def test_every_format_of_the_lab_search_keeps_powers_of_two(width: int, exponent_bias: int) -> None:
    powers = 2.0 ** torch.arange(1 - exponent_bias, 112)
    assert torch.equal(Log(width, exponent_bias)(powers), powers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 33}, r"Log: width=33 is not in 2\.\.32"),
        ({"exponent_bias": 254}, r"Log: exponent_bias=254 is not in -126\.\.253; .* float32"),
        ({"exponent_bias": 1.5}, r"Log: exponent_bias=1\.5 is a float"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Log(**arguments)

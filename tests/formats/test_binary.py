"""Binary against means and signs taken in Python."""

import math
from typing import Any

import pytest
import torch
from oracle import mixed

from lightning_adls.formats import Binary


def test_without_a_scale_the_values_are_plus_and_minus_one() -> None:
    x = torch.tensor([-5.0, -1e-45, -0.0, 0.0, 1e-45, 5.0, math.inf, -math.inf])
    assert Binary()(x).tolist() == [-1, -1, 1, 1, 1, 1, 1, -1]


def test_the_scale_is_the_mean_magnitude_of_the_tensor() -> None:
    x = torch.tensor([[0.5, -1.5], [2.0, 0.0]])
    assert Binary(scale="per_tensor")(x).tolist() == [[1.0, -1.0], [1.0, 1.0]]


def test_the_scale_is_the_mean_magnitude_of_every_channel() -> None:
    x = torch.tensor([[[0.5, -1.5]], [[-3.0, 0.0]]])
    assert Binary(scale="per_channel")(x).tolist() == [[[1.0, -1.0]], [[-1.5, 1.5]]]


def test_one_dimension_has_one_channel() -> None:
    assert Binary(scale="per_channel")(torch.tensor([1.0, -3.0])).tolist() == [2.0, -2.0]


@pytest.mark.parametrize("shape", [(50,), (7, 30), (4, 5, 6)])
def test_the_mean_is_exact_to_the_last_bit(shape: tuple[int, ...]) -> None:
    x = mixed(*shape)
    exact = math.fsum(x.double().abs().flatten().tolist()) / x.numel()
    assert (Binary(scale="per_tensor")(x).abs() == torch.tensor(exact)).all()


def test_a_mean_of_huge_numbers_does_not_overflow() -> None:
    x = torch.tensor([3e38, -3e38, 3e38])
    assert Binary(scale="per_tensor")(x).tolist() == x.tolist()


def test_a_mean_counts_finite_elements_only() -> None:
    x = torch.tensor([[1.0, math.nan, -3.0], [math.inf, 5.0, -math.inf], [math.nan] * 3])
    rounded = Binary(scale="per_channel")(x)
    expected = [[2.0, math.nan, -2.0], [5.0, 5.0, -5.0], [math.nan] * 3]
    torch.testing.assert_close(rounded, torch.tensor(expected), equal_nan=True, rtol=0, atol=0)


def test_zeros_alone_have_scale_zero() -> None:
    assert Binary(scale="per_tensor")(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_codes_are_one_for_plus() -> None:
    encoded = Binary(scale="per_tensor").encode(torch.tensor([-1.0, 0.0, 5.0]))
    assert encoded.codes.tolist() == [0, 1, 1]
    assert encoded.shared is not None
    assert encoded.shared.tolist() == [2.0]


@pytest.mark.parametrize("scale", ["none", "per_tensor", "per_channel"])
def test_stochastic_rounding_keeps_the_mean_while_training(scale: str) -> None:
    fmt = Binary(scale=scale, stochastic=True)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).expand(20_000, 5)
    rounded = fmt(x, training=True)
    factor = 1.0 if scale == "none" else 0.6
    assert rounded.abs().allclose(torch.tensor(factor))
    expected = x[0].clamp(-factor, factor)
    assert (rounded.mean(0) - expected).abs().max() < 0.03


def test_stochastic_rounding_happens_in_training_only() -> None:
    x = torch.linspace(-0.5, 0.5, 101)
    fmt = Binary(stochastic=True)
    assert torch.equal(fmt(x), Binary()(x))
    assert not torch.equal(fmt(x, training=True), Binary()(x))
    assert torch.equal(Binary()(x, training=True), Binary()(x))


def test_stochastic_rounding_contains_nan_and_saturates_infinity() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    rounded = Binary(scale="per_tensor", stochastic=True)(x, training=True)
    assert rounded.isnan().tolist() == [True, False, False, False]
    assert rounded[1:3].tolist() == [1.0, -1.0]


def test_an_element_exactly_at_the_scale_keeps_its_gradient() -> None:
    x = torch.tensor([1.0, -1.0, 1.0, 1.5, -0.5], requires_grad=True)
    Binary(scale="per_tensor", ste="clipped")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "mean"}, r"Binary: scale='mean' is not a choice; use 'none' or 'per_tensor' or"),
        ({"stochastic": "yes"}, r"Binary: stochastic='yes' is not a choice; use True or False"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_right(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Binary(**arguments)

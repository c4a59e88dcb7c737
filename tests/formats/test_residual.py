"""ResidualSign against sums of signs found by search, and gradients by finite differences."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_adls.formats import ResidualSign


def values(scales: list[float]) -> Tensor:
    signs = itertools.product((1, -1), repeat=len(scales))
    return torch.tensor([sum(a * b for a, b in zip(s, scales, strict=True)) for s in signs])


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (1, [1.0]),
        (2, [2 / 3, 1 / 3]),
        (3, [1 / 2, 1 / 3, 1 / 6]),
        (4, [4 / 10, 3 / 10, 2 / 10, 1 / 10]),
    ],
)
def test_absolute_scales_start_equally_spaced(levels: int, expected: list[float]) -> None:
    scales = ResidualSign(levels).initial_scales()
    torch.testing.assert_close(scales, torch.tensor(expected), rtol=0, atol=3e-7)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6])
def test_with_absolute_scales_the_nearest_sum_is_found(levels: int) -> None:
    fmt = ResidualSign(levels)
    sums = values(fmt.initial_scales().tolist())
    x = torch.linspace(-1.5, 1.5, 3001)
    shortest = (x[:, None] - sums).abs().min(-1).values
    torch.testing.assert_close((fmt(x) - x).abs(), shortest, rtol=0, atol=1e-6)


def test_zero_counts_as_positive() -> None:
    x = torch.tensor([0.0, -0.0])
    torch.testing.assert_close(ResidualSign(2)(x), torch.full((2,), 1 / 3))
    assert ResidualSign(3)(x).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_relative_scales_start_at_the_best_for_a_normal_distribution(
    scale: str, levels: int
) -> None:
    x = torch.randn(4, 100_000)
    residual, means = x.abs(), []
    for _ in range(levels):
        means.append(residual.mean())
        residual = (residual - means[-1]).abs()
    scales = ResidualSign(levels, scale).initial_scales()
    torch.testing.assert_close(scales, torch.stack(means) / means[0], rtol=0, atol=3e-3)
    assert scales[0] == 1


@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 300.0])
def test_relative_scales_follow_the_magnitude_of_the_tensor(magnitude: float) -> None:
    x = torch.randn(64, 64) * magnitude
    errors = [
        ((ResidualSign(levels, "per_tensor")(x) - x).norm() / x.norm()).item()
        for levels in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=0.02)
    assert errors[3] < 0.25


def test_a_scale_of_every_channel_is_its_own_mean() -> None:
    x = torch.tensor([[1.0, -3.0], [10.0, -30.0]])
    assert ResidualSign(1, "per_channel")(x).tolist() == [[2.0, -2.0], [20.0, -20.0]]


def test_given_scales_are_used_by_magnitude() -> None:
    fmt, x = ResidualSign(2), torch.tensor([-3.0, -0.4, 0.6, 3.0])
    assert fmt(x, torch.tensor([0.5, 0.25])).tolist() == [-0.75, -0.25, 0.75, 0.75]
    assert fmt(x, torch.tensor([-0.5, 0.25])).tolist() == [-0.75, -0.25, 0.75, 0.75]


@pytest.mark.parametrize("scale", ["none", "per_tensor", "per_channel"])
def test_scales_get_their_true_gradient(scale: str) -> None:
    fmt = ResidualSign(3, scale)
    x, grad = torch.randn(2, 5, 40, dtype=torch.float64)
    scales = torch.tensor([0.9, -0.5, 0.2], dtype=torch.float64, requires_grad=True)
    fmt(x, scales).backward(grad)
    assert scales.grad is not None
    for level in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[level] = 1e-9  # too small to change a sign
        change = fmt(x, scales.detach() + step) - fmt(x, scales.detach() - step)
        expected = (change * grad).sum() / 2e-9
        torch.testing.assert_close(scales.grad[level], expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_both_input_and_scales_in_the_dtype_of_each() -> None:
    x = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    scales = ResidualSign(2).initial_scales().requires_grad_()
    ResidualSign(2)(x, scales).sum().backward()
    assert x.grad is not None
    assert (x.grad == 1).all()
    assert scales.grad is not None
    assert scales.grad.dtype == torch.float32


def test_gradients_of_scales_compile_to_one_graph() -> None:
    fmt, x = ResidualSign(2, "per_tensor", ste="clipped"), torch.randn(4, 8)

    def gradients(call: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), fmt.initial_scales().requires_grad_()
        return torch.autograd.grad(call(*leaves).square().sum(), leaves)

    torch._dynamo.reset()
    compiled = torch.compile(fmt, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(fmt))


def test_learning_the_scales_lowers_the_error() -> None:
    fmt, x = ResidualSign(2), torch.randn(1000) * 3
    scales = fmt.initial_scales().requires_grad_()
    before = (fmt(x, scales) - x).square().mean()
    optimizer = torch.optim.SGD([scales], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (fmt(x, scales) - x).square().mean().backward()
        optimizer.step()
    assert (fmt(x, scales) - x).square().mean() < before / 3


def test_encoding_uses_the_given_scales() -> None:
    fmt, x, scales = ResidualSign(2), torch.randn(3, 7), torch.tensor([1.1, -0.4])
    encoded = fmt.encode(x, scales)
    assert torch.equal(fmt.decode(encoded), fmt(x, scales))
    assert not torch.equal(fmt.decode(encoded), fmt(x))


def test_codes_hold_the_sign_of_the_first_level_on_top() -> None:
    x = torch.tensor([-1.0, -0.4, 0.4, 1.0])
    assert ResidualSign(2).encode(x).codes.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(3,), (1, 2), ()])
def test_scales_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"scales\.shape=.* does not fit levels=2; .* \(2,\)"):
        ResidualSign(2)(torch.ones(2), torch.ones(shape))


@pytest.mark.parametrize("levels", [0, 17, 2.0, None])
def test_a_wrong_number_of_levels_is_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="ResidualSign: levels="):
        ResidualSign(levels)

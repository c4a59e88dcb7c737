"""LearnedInteger against the equations of the LSQ paper, computed in exact fractions or numpy."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_adls.formats import LearnedInteger

WIDTHS = [(2, True), (3, False), (8, True), (8, False), (16, True)]
STEPS = [0.37, -0.37, 2.0**-5, 11.0]

widths = pytest.mark.parametrize(("width", "signed"), WIDTHS)
steps = pytest.mark.parametrize("step", STEPS)


def bounds(width: int, signed: bool) -> tuple[int, int]:
    """The paper's Qn and Qp (section 2)."""
    return (2 ** (width - 1), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)


def inputs(step: float, width: int, signed: bool) -> Tensor:
    """Float64 numbers within the range and on both sides of it."""
    qn, qp = bounds(width, signed)
    spread = torch.linspace(-qn - qp, 2 * qp, 501, dtype=torch.float64)
    return abs(step) * torch.cat([spread, torch.randn(200, dtype=torch.float64) * qp / 2])


@given(
    x=st.floats(-1e6, 1e6, width=32),
    step=st.floats(0.001953125, 1e3, width=32),
    width=st.integers(2, 16),
    signed=st.booleans(),
)
def test_values_are_the_nearest_multiples_of_the_step(
    x: float, step: float, width: int, signed: bool
) -> None:
    qn, qp = bounds(width, signed)
    k = min(max(round(Fraction(x) / Fraction(step)), -qn), qp)
    wide = LearnedInteger(width, signed)(
        torch.tensor([x], dtype=torch.float64), torch.tensor([step], dtype=torch.float64)
    )
    assert wide.item() == k * step


def test_ties_go_to_the_even_multiple() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert LearnedInteger(4)(x, torch.ones(1)).tolist() == [-2, -2, 0, 0, 2, 2]


@widths
@steps
@pytest.mark.parametrize("batched", [False, True])
def test_the_step_gets_the_gradient_of_the_paper(
    width: int, signed: bool, step: float, batched: bool
) -> None:
    fmt = LearnedInteger(width, signed)
    x = inputs(step, width, signed)[:700].reshape(7, 4, 25)
    grad = torch.randn_like(x)
    scales = torch.tensor([step], dtype=torch.float64, requires_grad=True)
    fmt(x, scales, batched=batched).backward(grad)

    qn, qp = bounds(width, signed)
    v = x.numpy() / abs(step)
    slope = np.select([v <= -qn, v >= qp], [-qn, qp], np.rint(v) - v)  # equation 3
    elements = 4 * 25 if batched else 7 * 4 * 25
    expected = (slope * grad.numpy()).sum() / np.sqrt(elements * qp) * np.sign(step)
    assert scales.grad is not None
    assert scales.grad.shape == (1,)
    np.testing.assert_allclose(scales.grad.numpy(), [expected], rtol=1e-12)


@widths
@steps
def test_the_gradient_of_the_input_passes_inside_the_range_only(
    width: int, signed: bool, step: float
) -> None:
    qn, qp = bounds(width, signed)
    x, grad = inputs(step, width, signed).requires_grad_(), torch.randn(701, dtype=torch.float64)
    LearnedInteger(width, signed)(x, torch.tensor([step], dtype=torch.float64)).backward(grad)
    v = x.detach() / abs(step)
    inside = (v >= -qn) & (v <= qp)
    assert x.grad is not None
    assert torch.equal(x.grad, grad * inside)
    assert 0 < inside.sum() < 701


@pytest.mark.parametrize("step", [0.0, -0.0, 1e-45, 1e-38, 1e38, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_step_makes_a_nan(step: float, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1e-45, 1.0, -1.0, math.inf, -math.inf]).to(dtype).requires_grad_()
    scales = torch.tensor([step], requires_grad=True)
    y = LearnedInteger()(x, scales)
    y.backward(torch.ones_like(y))
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert scales.grad is not None
    assert not scales.grad.isnan().any()


def test_a_step_learns_its_way_back_from_zero() -> None:
    fmt, x = LearnedInteger(4), torch.randn(1000)
    scales = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([scales], lr=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (fmt(x, scales) - x).square().sum().backward()
        optimizer.step()
    assert (fmt(x, scales) - x).square().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@widths
def test_scales_start_from_the_mean_magnitude_of_what_is_finite(
    width: int, signed: bool, dtype: torch.dtype
) -> None:
    x = torch.randn(5, 40).to(dtype)
    with_odd = torch.cat([x.flatten(), torch.tensor([math.nan, math.inf, -math.inf]).to(dtype)])
    fmt, qp = LearnedInteger(width, signed), bounds(width, signed)[1]
    expected = 2 * np.abs(x.double().numpy()).mean() / math.sqrt(qp)
    assert fmt.fit_scales(with_odd).item() == pytest.approx(expected, rel=1e-6)
    assert fmt.fit_scales(with_odd).shape == fmt.initial_scales().shape == (1,)
    assert fmt.fit_scales(with_odd).dtype == torch.float32


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.empty(0), torch.full((2,), math.nan)])
def test_scales_of_data_without_a_magnitude_stay_the_initial_ones(x: Tensor) -> None:
    assert torch.equal(LearnedInteger().fit_scales(x), LearnedInteger().initial_scales())


@widths
def test_without_scales_the_range_ends_at_one(width: int, signed: bool) -> None:
    fmt, step = LearnedInteger(width, signed), 2.0 ** (signed - width)
    assert fmt(torch.tensor([-9.0, 9.0])).tolist() == [-1.0 if signed else 0.0, 1.0 - step]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_encoding_uses_the_given_step(dtype: torch.dtype) -> None:
    fmt, x, scales = LearnedInteger(16), torch.randn(3, 3000).to(dtype), torch.tensor([-1e-4])
    encoded = fmt.encode(x, scales)
    assert torch.equal(fmt.decode(encoded), fmt(x, scales))
    assert not torch.equal(fmt.decode(encoded), fmt(x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_gradients_compile_to_one_graph(dynamic: bool, batched: bool) -> None:
    fmt = LearnedInteger(4)

    def call(x: Tensor, scales: Tensor) -> Tensor:
        return fmt(x, scales, batched=batched)

    def gradients(call: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), torch.tensor([0.3], requires_grad=True)
        return torch.autograd.grad(call(*leaves).square().sum(), leaves)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(gradients(compiled, x), gradients(call, x))


def test_gradients_reach_both_input_and_step_in_the_dtype_of_each() -> None:
    x = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    scales = LearnedInteger().initial_scales().requires_grad_()
    y = LearnedInteger()(x, scales)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert scales.grad is not None
    assert scales.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2,), (1, 1), ()])
def test_scales_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"LearnedInteger: scales\.shape=.* is not \(1,\)"):
        LearnedInteger()(torch.ones(2), torch.ones(shape))


@pytest.mark.parametrize("width", [1, 17, 8.0])
def test_a_wrong_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="LearnedInteger: width="):
        LearnedInteger(width)

"""ElasticBinary against the equations of the BiT paper, differentiated by autograd in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls import LayerFormats
from lightning_adls.formats import Binary, ElasticBinary
from lightning_adls.layers import quantized

SCALES = [(0.7, 0.0), (0.7, 0.4), (1.9, -0.6), (-0.3, 0.2)]

kinds = pytest.mark.parametrize("signed", [True, False])
scales_of = pytest.mark.parametrize("scales", SCALES)


def paper(x: Tensor, a: Tensor, b: Tensor, signed: bool) -> Tensor:
    """Equations of section 3.2, written so that autograd gives their straight-through gradients."""
    v = (x - b) / a
    if not signed:
        clipped = v.clip(0, 1)
        return a * (clipped + (clipped.round() - clipped).detach())
    sign = torch.where(v >= 0, 1.0, -1.0).to(v.dtype)
    # The scale within the sign changes nothing; where x passes, it passes as it is.
    inner = a.detach() * ((x - b) / a.detach()).clip(-1, 1)
    return a * sign + inner - inner.detach()


@kinds
@scales_of
@pytest.mark.parametrize("batched", [False, True])
def test_values_and_all_gradients_are_those_of_the_paper(
    signed: bool, scales: tuple[float, float], batched: bool
) -> None:
    x = torch.randn(7, 4, 25, dtype=torch.float64)
    grad = torch.randn_like(x)
    given = x.clone().requires_grad_(), torch.tensor(scales, dtype=torch.float64).requires_grad_()
    rounded = ElasticBinary(signed)(*given, batched=batched)
    found = torch.autograd.grad(rounded, given, grad)

    leaves = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in scales]
    free = x.clone().requires_grad_()
    expected = paper(free, leaves[0].abs(), leaves[1], signed)
    of_x, of_a, of_b = torch.autograd.grad(expected, (free, *leaves), grad)
    torch.testing.assert_close(rounded, expected, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(found[0], of_x, rtol=1e-15, atol=0)
    elements = 4 * 25 if batched else 7 * 4 * 25
    scaled = torch.stack([of_a, of_b]) / math.sqrt(elements)
    torch.testing.assert_close(found[1], scaled, rtol=1e-12, atol=1e-12)
    assert 0 < (of_x != 0).sum() < x.numel()


@kinds
def test_the_gradients_have_the_pieces_of_the_paper(signed: bool) -> None:
    x = torch.tensor([-9.0, -0.25, 0.25, 0.5, 0.75, 9.0], dtype=torch.float64)
    for value, of_scale, of_threshold in zip(
        x,
        # (b - x) / a up to the middle, 1 - (x - b) / a from it on.
        [-1, -1, 1, 1, 1, 1] if signed else [0, 0, -0.25, -0.5, 0.25, 1],
        [0, -1, -1, -1, -1, 0] if signed else [0, 0, -1, -1, -1, 0],
        strict=True,
    ):
        scales = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        ElasticBinary(signed)(value.view(1), scales).sum().backward()
        assert scales.grad is not None
        assert scales.grad.tolist() == [of_scale, of_threshold]


@kinds
@given(
    x=st.floats(-1e6, 1e6, width=32),
    scale=st.floats(0.001953125, 1e3, width=32),
    threshold=st.floats(-1e3, 1e3, width=32),
)
def test_the_threshold_parts_the_values(
    signed: bool, x: float, scale: float, threshold: float
) -> None:
    rounded = ElasticBinary(signed)(
        torch.tensor([x], dtype=torch.float64), torch.tensor([scale, threshold])
    ).item()
    if signed:
        assert rounded == (scale if x >= threshold else -scale)
    else:
        middle = threshold + scale / 2
        if abs(x - middle) > 1e-6 * max(abs(x), scale):
            assert rounded == (scale if x > middle else 0.0)


@kinds
@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-45, 1e38, math.inf])
@pytest.mark.parametrize("threshold", [0.0, 1e38, -math.inf, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_scales_make_a_nan(
    signed: bool, scale: float, threshold: float, dtype: torch.dtype
) -> None:
    x = torch.tensor([0.0, 1e-45, 1.0, -1.0, math.inf, -math.inf]).to(dtype).requires_grad_()
    scales = torch.tensor([scale, threshold], requires_grad=True)
    y = ElasticBinary(signed)(x, scales)
    y.backward(torch.ones_like(y))
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert scales.grad is not None
    assert not scales.grad.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@kinds
def test_scales_start_from_the_mean_magnitude_of_what_is_finite(
    signed: bool, dtype: torch.dtype
) -> None:
    x = torch.randn(5, 40).to(dtype)
    with_odd = torch.cat([x.flatten(), torch.tensor([math.nan, math.inf, -math.inf]).to(dtype)])
    found = ElasticBinary(signed).fit_scales(with_odd)
    mean = x.double().abs().mean().item() * (1 if signed else 2)
    assert found.tolist() == [pytest.approx(mean, rel=1e-6), 0.0]
    assert found.dtype == torch.float32
    assert found.shape == ElasticBinary(signed).initial_scales().shape


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.empty(0), torch.full((2,), math.nan)])
@kinds
def test_scales_of_data_without_a_magnitude_stay_the_initial_ones(signed: bool, x: Tensor) -> None:
    fmt = ElasticBinary(signed)
    assert torch.equal(fmt.fit_scales(x), fmt.initial_scales())


@kinds
def test_learning_scale_and_threshold_lowers_the_error(signed: bool) -> None:
    middles = torch.tensor([-1.5, 1.5] if signed else [0.0, 3.0]).repeat(500)
    fmt, x = ElasticBinary(signed), torch.randn(1000) * 0.3 + middles
    x = x if signed else x.abs()
    scales = fmt.fit_scales(x).mul(0.5).requires_grad_()
    before = (fmt(x, scales) - x).square().mean()
    optimizer = torch.optim.SGD([scales], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        (fmt(x, scales) - x).square().sum().mul(0.03).backward()
        optimizer.step()
    assert (fmt(x, scales) - x).square().mean() < before / 2


@kinds
@scales_of
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_encoding_uses_the_given_scales(
    signed: bool, scales: tuple[float, float], dtype: torch.dtype
) -> None:
    fmt, x, learned = ElasticBinary(signed), torch.randn(3, 300).to(dtype), torch.tensor(scales)
    encoded = fmt.encode(x, learned)
    assert torch.equal(fmt.decode(encoded), fmt(x, learned))
    assert set(encoded.codes.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2), ()])
def test_scales_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ElasticBinary: scales\.shape=.* is not \(2,\)"):
        ElasticBinary()(torch.ones(2), torch.ones(shape))


@pytest.mark.parametrize("signed", [1, None, "no"])
def test_a_wrong_kind_of_signed_is_refused(signed: bool) -> None:
    with pytest.raises(ValueError, match="ElasticBinary: signed="):
        ElasticBinary(signed)


def test_a_network_of_binary_weights_and_activations_learns() -> None:
    torch.manual_seed(3)
    signs = torch.randint(0, 2, (512, 12)).float() * 2 - 1
    labels = (signs[:, :5].sum(1) > 0).long()  # the majority of five, which one sign does not tell
    x = signs + 0.3 * torch.randn(512, 12)
    weight = Binary(scale="per_channel", ste="clipped")
    first = quantized(nn.Linear(12, 32), LayerFormats(input=ElasticBinary(), weight=weight))
    positive = LayerFormats(input=ElasticBinary(signed=False), weight=weight)
    second = quantized(nn.Linear(32, 2), positive)
    net = nn.Sequential(first, nn.ReLU(), second)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(200):
        rows = torch.arange(32) + 32 * (step % 12)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
        optimizer.step()
    hits = (net.eval()(x[384:]).argmax(-1) == labels[384:]).float().mean()
    assert hits > 0.9, "of rows that were not trained on, half of which a guess would hit"
    assert len(first.rounded_input(x).unique()) == 2
    assert all(layer.rounded_weight()[0].unique().numel() == 2 for layer in (first, second))
    for layer in (first, second):
        assert layer.input_scales is not None
        assert layer.input_scales[1] != 0

"""The rules that every number format keeps, for every class in the registry."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from oracle import (
    BLOCKS,
    EDGES,
    FORMATS,
    MEANS,
    hard_input,
    mixed,
    rows,
    same,
    with_scales,
)
from torch import Tensor

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.formats.block_base import BlockFormat

SCALED_RESIDUALS = [text for text in MEANS if text.startswith("ResidualSign")]
SIGNS = [
    text
    for text in FORMATS
    if text.startswith(("Binary", "ElasticBinary")) and getattr(parse(text), "signed", True)
]
WITHOUT_ZERO = [*SIGNS, *(text for text in FORMATS if text.startswith("ResidualSign"))]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

every_format = pytest.mark.parametrize("text", FORMATS)
block_formats = pytest.mark.parametrize("text", BLOCKS)


def segments(text: str, x: Tensor) -> list[Tensor]:
    """Parts of a tensor of one dimension that a format rounds by the same rule."""
    size = getattr(parse(text), "block_size", x.numel())
    return list(x.split(size[1] if isinstance(size, tuple) else size))


@every_format
@given(x=rows)
def test_a_larger_input_never_gives_a_smaller_output(text: str, x: Tensor) -> None:
    x = torch.cat([part.sort().values for part in segments(text, x)])
    for part in segments(text, parse(text)(x)):
        assert (part.diff() >= 0).all()


@pytest.mark.parametrize("text", [text for text in FORMATS if text not in MEANS])
@given(x=rows)
def test_rounding_twice_is_rounding_once(text: str, x: Tensor) -> None:
    fmt = parse(text)
    assert torch.equal(fmt(fmt(x)), fmt(x))


@pytest.mark.parametrize("text", [text for text in MEANS if text not in SCALED_RESIDUALS])
@given(x=rows)
def test_rounding_twice_changes_a_mean_by_one_unit_in_the_last_place_at_most(
    text: str, x: Tensor
) -> None:
    once = parse(text)(x)
    torch.testing.assert_close(parse(text)(once), once, rtol=2.0**-23, atol=1e-45)


@pytest.mark.parametrize("text", [t for t in FORMATS if t not in WITHOUT_ZERO])
def test_zero_stays_zero(text: str) -> None:
    x = mixed(4, 33)
    x[:, ::3] = 0.0
    assert (parse(text)(x)[:, ::3] == 0).all()
    assert (parse(text)(-x)[:, ::3] == 0).all()


@pytest.mark.parametrize("text", SIGNS)
def test_zero_of_either_sign_is_positive_where_there_is_no_zero(text: str) -> None:
    x = mixed(4, 33)
    x[:, ::3] = 0.0
    assert (parse(text)(x)[:, ::3] > 0).all()
    assert (parse(text)(-x)[:, ::3] > 0).all()


@pytest.mark.parametrize("text", [text for text in FORMATS if text not in MEANS])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_nan_or_infinity_changes_no_other_element(text: str, odd: float) -> None:
    fmt, x = parse(text), mixed(6, 33)
    here = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    others = fmt(x.masked_fill(here, odd)).masked_fill(here, 0.0)
    assert torch.equal(others, fmt(x.masked_fill(here, 0.0)).masked_fill(here, 0.0))


@pytest.mark.parametrize("text", MEANS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_nan_or_infinity_does_not_count_in_a_mean(text: str, odd: float) -> None:
    fmt, x = parse(text), mixed(40)
    with_odd = torch.cat([x[:7], torch.tensor([odd]), x[7:]])
    assert torch.equal(fmt(with_odd)[torch.arange(41) != 7], fmt(x))


@every_format
def test_a_nan_stays_nan_and_an_infinity_becomes_the_largest_value(text: str) -> None:
    fmt, x = parse(text), hard_input()
    rounded, limits = fmt(x), torch.broadcast_tensors(x, *map(torch.as_tensor, fmt.limits(x)))[1:]
    assert rounded[0, 0].isnan()
    assert rounded.isnan().sum() == 1
    assert rounded.isinf().sum() == 0
    assert rounded[0, 1] == limits[1][0, 1]
    assert rounded[0, 2] == limits[0][0, 2]


@every_format
def test_no_output_lies_outside_the_limits(text: str) -> None:
    fmt, x = parse(text), mixed(6, 33)
    low, high = fmt.limits(x)
    assert (fmt(x) >= low).all()
    assert (fmt(x) <= high).all()


@block_formats
def test_a_ragged_last_block_is_rounded_as_a_tensor_of_its_own(text: str) -> None:
    fmt, x = parse(text), mixed(37)
    alone = torch.cat([fmt(part) for part in segments(text, x)])
    assert torch.equal(fmt(x), alone)


@block_formats
def test_a_block_of_zeros_stays_zero_beside_large_blocks(text: str) -> None:
    x = mixed(64)
    x[:32] = 0.0
    assert (parse(text)(x)[:32] == 0).all()


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_kept_and_only_the_result_is_cast_to_it(text: str, dtype: torch.dtype) -> None:
    fmt, x = parse(text), hard_input().to(dtype)
    wide = fmt(x.float() if dtype != torch.float64 else x)
    largest = torch.finfo(dtype).max
    assert same(fmt(x), wide.clamp(-largest, largest).to(dtype))
    assert not fmt(x).isinf().any()


@pytest.mark.parametrize("text", [t for t in FORMATS if "width=32" not in t])
def test_float64_gives_what_float32_gives_where_both_hold_the_values(text: str) -> None:
    x = mixed(6, 33).clamp(-1e30, 1e30)
    x[x.abs() < 1e-30] = math.nan  # in float64 formats have more small values
    torch.testing.assert_close(
        parse(text)(x.double()).float(), parse(text)(x), rtol=2.0**-21, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("text", [text for text in FORMATS if text not in MEANS])
def test_leading_dimensions_are_independent(text: str) -> None:
    fmt, x = parse(text), mixed(2, 3, 5, 33)
    for i in range(2):
        for j in range(3):
            assert torch.equal(fmt(x)[i, j], fmt(x[i, j]))
    assert fmt(x[0, 0, 0]).shape == (33,)


@every_format
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 16), (2, 0, 5)])
def test_an_empty_tensor_stays_empty(text: str, shape: tuple[int, ...]) -> None:
    fmt = parse(text)
    assert fmt(torch.empty(shape)).shape == shape
    assert fmt.decode(fmt.encode(torch.empty(shape))).shape == shape


@every_format
def test_a_tensor_without_dimensions_stays_one(text: str) -> None:
    fmt = parse(text)
    for value in (0.3, math.nan):
        for scales in (None, fmt.initial_scales()):
            x = torch.tensor(value, requires_grad=True)
            rounded = fmt(x, scales)
            rounded.backward(torch.ones_like(rounded))
            assert x.grad is not None
            assert rounded.shape == x.grad.shape == ()


@every_format
@pytest.mark.parametrize("ste", ["identity", "clipped"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_on_the_cpu_changes_no_bit(
    text: str, ste: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = dataclasses.replace(parse(text), ste=ste)
    edges = torch.cat([EDGES, -EDGES, torch.ones(4)]).view(2, 16)
    tensors = [hard_input(), mixed(6, 33), mixed(12, 6).t(), edges, torch.zeros(2, 3)]
    tensors += [torch.empty(0, 3), torch.tensor(-0.0)]
    grads = [
        mixed(*x.shape, seed=1).masked_fill(mixed(*x.shape, seed=2) < -1, -0.0) for x in tensors
    ]

    def results() -> list[Tensor]:
        found = []
        for x, grad in zip(tensors, grads, strict=True):
            for scales in (None, fmt.initial_scales()):
                leaf = x.to(dtype).requires_grad_()
                learned = None if scales is None else scales.requires_grad_()
                rounded = fmt(leaf, learned)
                leaves = [leaf] if learned is None else [leaf, learned]
                found += [rounded, *torch.autograd.grad(rounded, leaves, grad.to(dtype))]
        return found

    fast = results()
    with monkeypatch.context() as patched:
        for module in ("host", "binary"):
            patched.setattr(f"lightning_adls.formats.{module}.is_readable", lambda _: False)
        slow = results()
    for one, other in zip(fast, slow, strict=True):
        assert same(one, other)
        assert torch.equal(one.signbit() & ~one.isnan(), other.signbit() & ~other.isnan())


@every_format
def test_strides_do_not_matter_and_the_input_is_left_alone(text: str) -> None:
    fmt, x = parse(text), mixed(33, 12)
    before = x.clone()
    assert torch.equal(fmt(x.t()), fmt(x.t().contiguous()))
    assert torch.equal(fmt(x[:, ::2]), fmt(x[:, ::2].contiguous()))
    assert torch.equal(fmt(x[:1].expand(4, 12)), fmt(x[:1].repeat(4, 1)))
    assert torch.equal(x, before)


@every_format
def test_the_gradient_passes_unchanged(text: str) -> None:
    fmt = dataclasses.replace(parse(text), ste="identity")
    x, grad = hard_input().requires_grad_(), mixed(6, 33, seed=1)
    fmt(x).backward(grad)
    assert x.grad is not None
    assert torch.equal(x.grad, grad)


@every_format
def test_the_clipped_gradient_is_zero_outside_the_limits_and_one_at_them(text: str) -> None:
    fmt = dataclasses.replace(parse(text), ste="clipped")
    x = mixed(6, 33)
    low, high = (torch.as_tensor(limit).expand_as(x) for limit in fmt.limits(x))
    if text in BLOCKS:  # limits depend on the maximum, which stays where it is
        small = x.abs() < x.abs().amax(-1, keepdim=True) / 4096
        x = torch.where(small & (torch.arange(33) % 2 == 0), high, x)
    elif text not in MEANS:
        x[:, 0], x[:, 1] = low[:, 0], high[:, 0]
        x[:, 2], x[:, 3] = low[:, 0] - 1e-3 * x[:, 0].abs(), high[:, 0].nextafter(2 * high[:, 0])
    low, high = (torch.as_tensor(limit).expand_as(x) for limit in fmt.limits(x))
    x.requires_grad_()
    fmt(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, ((x >= low) & (x <= high)).float())


@every_format
def test_the_clipped_gradient_of_a_nan_passes_and_of_an_infinity_does_not(text: str) -> None:
    fmt = dataclasses.replace(parse(text), ste="clipped")
    for scales in (None, fmt.initial_scales()):  # which keep x for the backward pass
        x = hard_input().requires_grad_()
        fmt(x, scales).sum().backward()
        assert x.grad is not None
        assert x.grad[0, :3].tolist() == [1.0, 0.0, 0.0]


@every_format
def test_a_large_tensor_is_rounded_in_parts_as_it_is_as_a_whole(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = parse(text)
    tensors = (mixed(40, 33), mixed(2, 20, 33), mixed(2000), mixed(1000, 2), mixed(33, 40).t())
    expected = [fmt(x) for x in tensors]
    monkeypatch.setattr("lightning_adls.formats.base.PART", 100)
    for x, whole in zip(tensors, expected, strict=True):
        assert torch.equal(fmt(x), whole)


@every_format
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(text: str, dtype: torch.dtype) -> None:
    fmt, x = parse(text), mixed(6, 33)
    with torch.autocast("cpu", dtype):
        inside = fmt(x)
    assert same(inside, fmt(x))


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(70,), (5, 33), (2, 3, 4, 20)])
def test_decoding_a_code_gives_the_rounded_value(
    text: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    fmt, x = parse(text), mixed(*shape).to(dtype)
    x.view(-1)[1:3] = torch.tensor([math.inf, -math.inf])
    encoded = fmt.encode(x)
    assert same(fmt.decode(encoded), fmt(x))
    assert encoded.codes.shape == x.shape
    assert encoded.codes.min() >= 0
    assert encoded.codes.max() < 2**fmt.code_bits


@every_format
def test_a_nan_is_refused_by_encode(text: str) -> None:
    with pytest.raises(ValueError, match="x holds 2 NaN"):
        parse(text).encode(torch.tensor([1.0, math.nan, math.nan]))


@every_format
@pytest.mark.parametrize("shape", [(70,), (5, 33), (2, 3, 4, 20), (0, 16)])
def test_storage_counts_every_bit_that_encoding_produces(text: str, shape: tuple[int, ...]) -> None:
    fmt = parse(text)
    encoded = fmt.encode(mixed(*shape))
    shared_bits = 0
    if encoded.shared is not None:
        shared_bits = encoded.shared.numel() * getattr(fmt, "shared_bits", 32)
    assert fmt.storage_bits(shape) == encoded.codes.numel() * fmt.code_bits + shared_bits


@block_formats
def test_nominal_bits_are_the_storage_of_full_blocks(text: str) -> None:
    fmt = parse(text)
    assert fmt.bits == fmt.storage_bits((480, 480)) / 480**2


@block_formats
def test_a_shared_exponent_fits_its_bits(text: str) -> None:
    fmt, shared = parse(text), parse(text).encode(mixed(40, 33)).shared
    assert isinstance(fmt, BlockFormat)
    assert shared is not None
    assert shared.min() >= 0
    assert shared.max() < 2**fmt.shared_bits


@every_format
def test_a_format_is_a_value(text: str) -> None:
    fmt, again = parse(text), parse(text)
    assert fmt == again
    assert hash(fmt) == hash(again)
    assert parse(str(fmt)) == fmt
    assert copy.deepcopy(fmt) == fmt
    assert pickle.loads(pickle.dumps(fmt)) == fmt
    assert type(fmt)(ste="clipped") != type(fmt)(ste="identity")


def test_formats_of_different_parameters_differ_in_their_text() -> None:
    formats = {parse(text) for text in FORMATS}
    assert len({str(fmt) for fmt in formats}) == len(formats) == len(FORMATS)


def with_gradient(
    fmt: NumberFormat, x: Tensor, scales: Tensor | None, way: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """The rounded tensor and the gradient of its sum, on the CPU."""
    leaf = x.clone().requires_grad_()
    rounded = way(fmt, leaf, scales)
    rounded.sum().backward()
    assert leaf.grad is not None
    return rounded.detach().cpu(), leaf.grad.cpu()


def call(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> Tensor:
    return fmt(x, scales)


@every_format
def test_what_is_computed_otherwise_in_kernels_for_a_gpu_is_the_same(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt, x = dataclasses.replace(parse(text), ste="clipped"), hard_input()
    for scales in with_scales(fmt):
        with monkeypatch.context() as patch:
            expected = with_gradient(fmt, x, scales, call)
            for module in ("base", "floats"):
                name = f"lightning_adls.formats.{module}.is_compiled_for_gpu"
                patch.setattr(name, lambda x: True)
            for ours, expect in zip(with_gradient(fmt, x, scales, call), expected, strict=True):
                assert same(ours, expect)


def assert_agrees(text: str, ours: Tensor, expected: Tensor) -> None:
    """Equal; but for the last bit of a mean, which depends on the order of a sum."""
    if text in MEANS:
        precision = torch.finfo(expected.dtype).eps
        torch.testing.assert_close(ours, expected, rtol=precision, atol=0, equal_nan=True)
    else:
        assert same(ours, expected)


@pytest.mark.gpu
@every_format
def test_cuda_gives_the_bits_of_the_cpu(text: str) -> None:
    fmt = dataclasses.replace(parse(text), ste="clipped")
    for scales in with_scales(fmt):
        on_device = None if scales is None else scales.cuda()
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True)
        for dtype in DTYPES:
            x = hard_input().to(dtype)
            rounded, grad = with_gradient(fmt, x, scales, call)
            for way in (call, compiled):
                ours = with_gradient(fmt, x.cuda(), on_device, way)
                assert_agrees(text, ours[0], rounded)
                assert same(ours[1], grad)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "text",
    [
        "LearnedInteger(width=4)",
        "ResidualSign(levels=3)",
        "ElasticBinary",
        "ElasticBinary(signed=False)",
    ],
)
def test_cuda_gives_the_gradient_of_scales_but_for_the_order_of_a_sum(text: str) -> None:
    fmt, x = parse(text), torch.randn(60, 33)
    torch._dynamo.reset()
    gradients = []
    for device, way in [
        ("cpu", call),
        ("cuda", call),
        ("cuda", torch.compile(call, fullgraph=True)),
    ]:
        scales = fmt.initial_scales()
        assert scales is not None
        scales = scales.to(device).mul(0.77).requires_grad_()
        way(fmt, x.to(device), scales).square().sum().backward()
        assert scales.grad is not None
        gradients.append(scales.grad.cpu())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.gpu
@every_format
def test_cuda_gives_the_codes_of_the_cpu(text: str) -> None:
    fmt, x = parse(text), hard_input().nan_to_num(1.0)
    assert torch.equal(fmt.encode(x.cuda()).codes.cpu(), fmt.encode(x).codes)


@every_format
def test_whole_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.dtype=torch\.int64"):
        parse(text)(torch.tensor([1]))


@every_format
def test_scales_are_refused_by_formats_that_learn_none(text: str) -> None:
    fmt = parse(text)
    assert (fmt.initial_scales() is None) == (not fmt.learns_scales)
    if not fmt.learns_scales:
        assert fmt.fit_scales(torch.ones(2)) is None
        with pytest.raises(ValueError, match="this format learns none"):
            fmt(torch.ones(2), torch.ones(2))


def test_defining_a_class_registers_it_once() -> None:
    assert len(NumberFormat.classes) >= 12
    with pytest.raises(TypeError, match="already defines this name"):
        type("Integer", (NumberFormat.classes["Integer"],), {})

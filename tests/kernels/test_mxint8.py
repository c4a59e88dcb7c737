"""MXINT8 packed: the numbers of formats.MXInt, on every path."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_oracle import all_pairs, hard_input, same, unpacked
from torch import Tensor, library

from lightning_adls.formats import MXInt
from lightning_adls.kernels import (
    BLOCK_SIZE,
    dequantize,
    dequantize_reference,
    exponents_shape,
    quantize,
)
from lightning_adls.kernels.mxint8 import DTYPES

FMT = MXInt(width=8, block_size=32)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_path = pytest.mark.parametrize("path", [dequantize, dequantize_reference])

shapes = st.lists(st.integers(1, 4), max_size=2).flatmap(
    lambda rows: st.integers(1, 100).map(lambda columns: (*rows, columns))
)


def check_packing(x: Tensor) -> None:
    """Packed tensors are what the format encodes, and unpack to what it rounds to."""
    codes, exponents = quantize(x)
    encoded = FMT.encode(x)
    assert torch.equal(codes.long() & 255, encoded.codes)
    assert encoded.shared is not None
    assert torch.equal(exponents.long(), encoded.shared)
    assert codes.is_contiguous()
    assert codes.numel() == 0 or codes.min() >= -127
    for path in (dequantize, dequantize_reference):
        assert same(path(codes, exponents, x.dtype), FMT(x))


@given(shapes, st.sampled_from(DTYPES), st.integers(-340, 340), st.integers(0, 60), st.data())
def test_packing_agrees_with_the_format(
    shape: tuple[int, ...], dtype: torch.dtype, exponent: int, spread: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    powers = torch.randint(-spread, spread + 1, shape, generator=generator)
    limit = torch.finfo(dtype).max
    check_packing((x * torch.exp2(powers + float(exponent))).clamp(-limit, limit).to(dtype))


@every_dtype
def test_hard_inputs_are_packed_as_the_format_encodes_them(dtype: torch.dtype) -> None:
    x = hard_input(dtype)
    check_packing(x)
    check_packing(x.t())
    check_packing(x[0])


def test_exponents_reach_both_ends() -> None:
    largest, smallest = torch.finfo(torch.float32).max, 2.0**-149
    codes, exponents = quantize(torch.tensor([[largest], [smallest], [2.0**-127], [0.0]]))
    assert exponents.flatten().tolist() == [254, 0, 0, 0]
    assert codes.flatten().tolist() == [127, 0, 64, 0]


@pytest.mark.parametrize("shape", [(0,), (0, 64), (3, 0), (0, 33)])
def test_empty_tensors_are_packed(shape: tuple[int, ...]) -> None:
    codes, exponents = quantize(torch.empty(shape))
    assert exponents.shape == exponents_shape(torch.Size(shape))
    assert dequantize(codes, exponents).shape == shape


def test_a_parameter_is_packed_without_a_gradient() -> None:
    codes, exponents = quantize(torch.nn.Parameter(torch.randn(2, 40)))
    assert not dequantize(codes, exponents).requires_grad


@every_path
@every_dtype
@pytest.mark.parametrize("columns", [256, 250, 7])
def test_unpacking_is_exact(path, dtype: torch.dtype, columns: int) -> None:  # type: ignore[no-untyped-def]
    codes, exponents = all_pairs(columns)
    assert same(path(codes, exponents, dtype), unpacked(codes, exponents, dtype))


@every_path
def test_the_lowest_code_is_minus_two(path) -> None:  # type: ignore[no-untyped-def]
    codes = torch.tensor([-128], dtype=torch.int8)
    assert path(codes, torch.tensor([127], dtype=torch.uint8), torch.float32).item() == -2


@every_path
def test_strides_do_not_matter(path) -> None:  # type: ignore[no-untyped-def]
    codes, exponents = all_pairs()
    strided = codes.t().contiguous().t(), exponents.t().contiguous().t()
    assert not strided[0].is_contiguous()
    result = path(*strided, torch.float32)
    assert same(result, unpacked(codes, exponents, torch.float32))
    assert path is dequantize_reference or result.is_contiguous()


def test_packed_tensors_stay_as_they_are() -> None:
    codes, exponents = all_pairs()
    before = codes.clone(), exponents.clone()
    dequantize(codes, exponents)
    assert torch.equal(codes, before[0])
    assert torch.equal(exponents, before[1])


@every_dtype
@pytest.mark.parametrize("shape", [(4, 64), (3, 2, 70), (5,)])
def test_the_operator_keeps_what_torch_asks_of_one(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    operator = torch.ops.lightning_adls.mxint8_dequantize.default
    library.opcheck(operator, (*quantize(torch.randn(shape)), dtype))


@pytest.mark.long
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_unpacking_compiles_to_one_graph(backend: str) -> None:
    packed = all_pairs(70)
    torch._dynamo.reset()
    compiled = torch.compile(lambda c, e: dequantize(c, e) * 2, fullgraph=True, backend=backend)
    assert same(compiled(*packed), dequantize(*packed) * 2)


def test_what_has_no_code_is_refused() -> None:
    with pytest.raises(ValueError, match="quantize: x holds 2 NaN"):
        quantize(torch.tensor([1.0, torch.nan, torch.nan]))
    with pytest.raises(ValueError, match=r"x of torch\.int64 and shape \(1,\)"):
        quantize(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        quantize(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("codes", "exponents", "dtype", "message"),
    [
        (torch.zeros(2, 32), torch.zeros(2, 1), torch.float32, r"codes of torch\.float32"),
        (torch.zeros(2, 33), torch.zeros(2, 1), torch.float32, r"shape \(2, 1\) do not belong"),
        (torch.zeros(2, 32), torch.zeros(2), torch.float32, r"shape \(2,\) do not belong"),
        (torch.zeros(()), torch.zeros(()), torch.float32, r"codes of shape \(\)"),
        (torch.zeros(2, 32), torch.zeros(2, 1), torch.int32, r"dtype=torch\.int32"),
    ],
)
def test_what_is_not_packed_is_refused(
    codes: Tensor, exponents: Tensor, dtype: torch.dtype, message: str
) -> None:
    if "codes of torch" not in message:
        codes, exponents = codes.to(torch.int8), exponents.to(torch.uint8)
    with pytest.raises(ValueError, match=message):
        dequantize(codes, exponents, dtype)


def test_a_packed_tensor_takes_eight_and_a_quarter_bits_per_element() -> None:
    x = torch.randn(6, 10 * BLOCK_SIZE)
    packed = sum(tensor.nbytes for tensor in quantize(x))
    assert packed * 8 == FMT.storage_bits(x.shape) == 8.25 * x.numel()

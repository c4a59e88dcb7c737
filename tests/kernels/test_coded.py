"""Every format of the registry has codes that give back every value, in the bits that it counts."""

import math
from dataclasses import replace

import pytest
import torch
from coded_samples import decoded_by_torch, hard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats import MXInt, NumberFormat, parse
from lightning_adls.kernels import coded_shapes, encode_cpu, encoding
from lightning_adls.kernels.coded import check_parts
from lightning_adls.kernels.compiled import PAYS_AFTER
from lightning_adls.kernels.encoding import encode, has_zero

VARIANTS = (
    "Integer(width=3, frac_width=1)",
    "Integer(width=32, frac_width=2)",
    "Integer(width=5, signed=False, rounding=floor)",
    "MinifloatDenorm(width=10, exponent_width=8)",
    "MinifloatIEEE(width=3, exponent_width=1)",
    "Log(width=32, exponent_bias=7)",
    "Binary(scale=per_tensor)",
    "Binary(scale=per_channel, stochastic=True)",
    "Ternary(scale=per_channel)",
    "ResidualSign(levels=3, scale=per_channel)",
    "LearnedInteger(width=3, signed=False)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "BlockMinifloat(width=7, exponent_bias_width=3, block_size=-1)",
    "BlockLog(width=2, block_size=(-1, 2))",
    "MXInt(width=3, block_size=5)",
    "MXFP(exponent_width=2, mantissa_width=1)",
)
# A format that is added to the registry is here by itself.
FORMATS = (*NumberFormat.classes, *VARIANTS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPES = ((1, 1), (1, 7), (5, 33), (8, 16), (0, 4), (3, 0))

every_format = pytest.mark.parametrize("text", FORMATS)
few = settings(  # of every format
    max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[True, False], ids=["kernels", "torch"], autouse=True)
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By C++, whose kernels are for large matrices, and as where there is no compiler."""
    if request.param:
        encode_cpu.KERNELS.pay(PAYS_AFTER)
    monkeypatch.setattr(encode_cpu, "WORTH_IT", 1 if request.param else math.inf)


def scales_of(fmt: NumberFormat, learned: bool) -> Tensor | None:
    initial = fmt.initial_scales()
    return initial * -0.77 if learned and initial is not None else None


@every_format
@few
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    learned=st.booleans(),
)
def test_what_is_decoded_is_what_was_rounded(
    text: str, shape: tuple[int, int], dtype: torch.dtype, seed: int, learned: bool
) -> None:
    fmt, x = parse(text), hard(shape, dtype, seed)
    matrix = encode(fmt, x, scales_of(fmt, learned))
    check_parts(matrix.shapes, matrix.parts())
    rounded, decoded = fmt(x, scales_of(fmt, learned)), matrix.decode()
    assert decoded.dtype == dtype
    assert torch.equal(decoded, rounded)


@every_format
@few
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
def test_masked_elements_are_zero_and_the_others_as_without_a_mask(
    text: str, shape: tuple[int, int], dtype: torch.dtype, seed: int, share: float
) -> None:
    fmt, x = parse(text), hard(shape, dtype, seed)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= share
    matrix = encode(fmt, x, None, mask)
    check_parts(matrix.shapes, matrix.parts())
    assert torch.equal(matrix.decode(), fmt(x).masked_fill(~mask, 0.0))


@every_format
@pytest.mark.parametrize("shape", [(64, 100), (128, 96)])
def test_the_parts_have_as_many_bits_as_the_format_counts(
    text: str, shape: tuple[int, int]
) -> None:
    fmt = parse(text)
    matrix = encode(fmt, torch.randn(shape))
    counted = fmt.storage_bits(shape)
    assert counted <= 8 * matrix.nbytes < counted + 2 * 8  # each part ends at a byte


@every_format
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.95])
def test_a_mask_takes_the_smaller_of_its_two_forms(text: str, sparsity: float) -> None:
    fmt, x = parse(text), torch.randn(64, 96)
    mask = torch.rand(x.shape) >= sparsity
    matrix = encode(fmt, x, None, mask)
    shared = fmt.storage_bits(x.shape) - x.numel() * fmt.code_bits
    sparse = x.numel() + int(mask.sum()) * fmt.code_bits
    dense = x.numel() * fmt.code_bits if has_zero(fmt) else math.inf
    assert 8 * matrix.nbytes < shared + min(sparse, dense) + 3 * 8


@pytest.mark.parametrize("text", [t for t in FORMATS if parse(t).code_bits <= 8])
def test_every_code_of_an_element_is_kept(text: str) -> None:
    """What rounding rarely gives is there as well: all codes, beside what an encoded row shares."""
    fmt = parse(text)
    codes = torch.arange(2**fmt.code_bits).view(1, -1)
    rows = fmt.encode(torch.linspace(-3, 3, codes.numel()).view(1, -1))
    values = fmt.decode(replace(rows, codes=codes))
    again = encode(fmt, values).decode()
    assert torch.equal(again, fmt(values))


@every_format
@pytest.mark.parametrize("masked", [False, True])
def test_large_matrices_are_computed_in_parts(
    text: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt, x = parse(text), hard((37, 13), torch.float32, 0)
    mask = torch.rand(x.shape) < 0.2 if masked else None
    whole = encode(fmt, x, None, mask)
    monkeypatch.setattr(coded_shapes, "PART", 200)
    monkeypatch.setattr(encoding, "AT_ONCE", 200)
    monkeypatch.setattr(encoding, "AT_ONCE_BY_KERNELS", 200)
    in_parts = encode(fmt, x, None, mask)
    assert in_parts.shapes == whole.shapes
    for name, part in whole.parts().items():
        assert torch.equal(in_parts.parts()[name], part)
    values = decoded_by_torch(in_parts)
    monkeypatch.undo()
    assert torch.equal(values, decoded_by_torch(whole))


def test_a_format_without_zero_is_told_from_one_with_it() -> None:
    without = {name for name in NumberFormat.classes if not has_zero(parse(name))}
    assert without == {"Binary", "ElasticBinary", "ResidualSign"}


def test_parts_that_do_not_belong_together_are_refused() -> None:
    mask = torch.arange(64).view(4, 16) % 2 == 0
    matrix = encode(MXInt(width=8), torch.randn(4, 16), None, mask)
    parts = matrix.parts()
    for wrong in (
        {**parts, "codes": parts["codes"][1:]},
        {**parts, "shared": parts["shared"].float()},
        {name: part for name, part in parts.items() if name != "mask"},
        {**parts, "mask": torch.zeros_like(parts["mask"])},
    ):
        with pytest.raises(InputValueError, match="Coded"):
            check_parts(matrix.shapes, wrong)


def test_a_nan_is_refused() -> None:
    with pytest.raises(InputValueError, match="NaN"):
        encode(MXInt(), torch.tensor([[math.nan]]))

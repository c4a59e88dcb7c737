"""Tables give the codes and values that the formats' own arithmetic gives."""

import pytest
import torch

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.kernels.bits import pack_bits
from lightning_adls.kernels.coded import shared_bits
from lightning_adls.kernels.encoding import encode
from lightning_adls.kernels.lookup import Lookup, find_block_codes, find_codes

VARIANTS = (
    "Integer(width=3, frac_width=1)",
    "Integer(width=8, signed=False)",
    "MinifloatDenorm(width=6, exponent_width=3)",
    "Binary(scale=per_channel)",
    "Ternary(scale=per_tensor)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "BlockMinifloat(width=7, exponent_bias_width=3, block_size=-1)",
    "MXInt(width=3, block_size=5)",
    "MXFP(exponent_width=2, mantissa_width=1)",
    "MXFP(exponent_width=5, mantissa_width=2)",
)
every_format = pytest.mark.parametrize("text", [*NumberFormat.classes, *VARIANTS])


def weight(tiny: bool = False) -> torch.Tensor:
    x = torch.randn(40, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    x[0, :8] = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-3, -1e-3, 30.0, -30.0])
    return x * 2.0**-120 if tiny else x


@every_format
@pytest.mark.parametrize("tiny", [False, True])
def test_codes_are_those_that_the_format_computes(text: str, tiny: bool) -> None:
    fmt, x = parse(text), weight(tiny)
    expected, matrix = fmt.encode(x), encode(fmt, x)
    assert torch.equal(matrix.codes, pack_bits(expected.codes, fmt.code_bits))
    if expected.shared is None or matrix.shared is None:
        assert matrix.shared is expected.shared
    elif expected.shared.is_floating_point():
        assert torch.equal(matrix.shared, expected.shared)
    else:
        assert torch.equal(matrix.shared, pack_bits(expected.shared, shared_bits(fmt)))


@every_format
def test_a_weight_of_usual_size_is_looked_up(text: str) -> None:
    fmt, x = parse(text), weight()
    encoded = fmt.encode(x)
    assert Lookup.of(fmt, x.shape, x.dtype, encoded.shared, x.device) is not None
    if isinstance(fmt, BlockFormat):
        assert find_block_codes(fmt, x) is not None
    elif encoded.shared is None:
        assert find_codes(fmt, fmt(x)) is not None


def test_what_no_table_can_give_is_left_to_the_format() -> None:
    cpu = torch.device("cpu")
    wide, x = parse("Integer(width=24)"), weight()
    assert Lookup.of(wide, x.shape, x.dtype, None, cpu) is None
    assert find_codes(parse("Integer(width=12)"), x) is None
    learned = parse("LearnedInteger")  # whose table is made for each matrix
    assert Lookup.of(learned, torch.Size((2, 3)), x.dtype, torch.ones(1), cpu) is None
    blocks = parse("MXInt")
    shared = torch.zeros(2, 1, dtype=torch.int64)  # 2**-127, whose products are not exact
    assert Lookup.of(blocks, torch.Size((2, 32)), x.dtype, shared, cpu) is None

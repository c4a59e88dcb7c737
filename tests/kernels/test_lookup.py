"""Tables give the codes and values that the formats' own arithmetic gives."""

import pytest
import torch
from coded_samples import lookup_of

from lightning_adls.formats import NumberFormat, parse
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.kernels.bits import pack_bits
from lightning_adls.kernels.coded_shapes import shared_bits
from lightning_adls.kernels.encoding import encode
from lightning_adls.kernels.lookup import Floats, Multiples, find_block_codes, find_codes

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
    coded = encode(fmt, x)
    assert lookup_of(coded) is not None
    if isinstance(fmt, BlockFormat):
        assert find_block_codes(fmt, x) is not None
    elif coded.shared is None:
        assert find_codes(fmt, fmt(x)) is not None


@pytest.mark.parametrize("text", ["MXInt", "MXFP", "BlockFP", "BlockMinifloat"])
def test_blocks_of_zeros_have_no_other_way(text: str) -> None:
    """As rows of words that do not occur have, and layers that are pruned."""
    fmt, x = parse(text), weight()
    x[3:5] = 0.0
    assert lookup_of(encode(fmt, x)) is not None
    assert isinstance(fmt, BlockFormat)
    codes = find_block_codes(fmt, x)
    assert codes is not None
    assert torch.equal(codes[0], fmt.encode(x).codes.to(torch.uint8))


def test_what_no_table_can_give_is_left_to_the_format() -> None:
    x = weight()
    assert lookup_of(encode(parse("Integer(width=24)"), x)) is None
    assert lookup_of(encode(parse("Integer"), x.double())) is None
    # Elements below 2**-149 are no numbers of float32.
    assert lookup_of(encode(parse("BlockMinifloat(width=12, exponent_width=8)"), x)) is None
    assert find_codes(parse("Integer(width=12)"), x) is None
    # A table that is made for each matrix is not worth it for a small one.
    assert lookup_of(encode(parse("LearnedInteger"), x[:2, :3])) is None


WITH_RULES = {
    "Integer": Multiples(2.0**-4, sign=True),
    "Integer(width=12, frac_width=3, signed=False)": Multiples(2.0**-3, sign=False),
    "LearnedInteger(width=6)": Multiples(2.0**-5, sign=True),
    "MXInt": Multiples(2.0**-5, sign=True),  # doubled, as all elements of blocks are
    "BlockFP": Floats(mantissa=7, leading=False, exponent=-6),
    "MXFP": Floats(mantissa=3, leading=True, exponent=-8),
    "MinifloatIEEE": Floats(mantissa=3, leading=True, exponent=-9),
    "MinifloatDenorm": Floats(mantissa=3, leading=False, exponent=-10),
    "Log": Floats(mantissa=0, leading=True, exponent=-62),
}


@pytest.mark.parametrize("text", WITH_RULES)
def test_tables_that_follow_a_rule_are_known_by_it(text: str) -> None:
    lookup = lookup_of(encode(parse(text), weight()))
    assert lookup is not None
    assert lookup.rule == WITH_RULES[text]


def test_a_table_that_follows_none_has_none() -> None:
    per_row = lookup_of(encode(parse("ResidualSign(levels=5)"), weight()))
    assert per_row is not None
    assert per_row.rule is None

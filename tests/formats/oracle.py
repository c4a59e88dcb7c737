"""What the tests of the formats share: formats to try, hard inputs, and rounding by search."""

import math
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

from lightning_adls.formats import Encoded, NumberFormat, parse

FORMATS = [
    *NumberFormat.classes,  # every format with its defaults, also one that is not listed below
    "Integer(width=2, frac_width=0)",
    "Integer(width=4, frac_width=8)",
    "Integer(width=6, frac_width=-3, rounding=floor)",
    "Integer(width=8, signed=False)",
    "Integer(width=32, frac_width=2)",
    "MinifloatIEEE(width=3, exponent_width=1)",
    "MinifloatIEEE(width=4, exponent_width=2)",
    "MinifloatIEEE(width=16, exponent_width=8)",
    "MinifloatIEEE(width=16, exponent_width=2, exponent_bias=15)",
    "MinifloatIEEE(width=32, exponent_width=4, exponent_bias=3)",
    "MinifloatDenorm(width=4, exponent_width=2)",
    "MinifloatDenorm(width=10, exponent_width=8)",
    "MinifloatDenorm(width=32, exponent_width=3, exponent_bias=15)",
    "Log(width=2)",
    "Log(width=4, exponent_bias=3)",
    "Log(width=16)",
    "Log(width=32, exponent_bias=7)",
    "Binary(scale=per_tensor)",
    "Binary(scale=per_channel, stochastic=True)",
    "Ternary(scale=per_tensor)",
    "Ternary(scale=per_channel, threshold=0.5)",
    "ResidualSign(levels=1)",
    "ResidualSign(levels=5)",
    "ResidualSign(levels=3, scale=per_tensor)",
    "LearnedInteger(width=2)",
    "LearnedInteger(width=5, signed=False)",
    "LearnedInteger(width=16, ste=identity)",
    "ElasticBinary(signed=False)",
    "ElasticBinary(ste=identity)",
    "BlockFP(width=2, block_size=5)",
    "BlockFP(width=32, exponent_bias=3)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "BlockMinifloat(width=4, exponent_width=2)",
    "BlockMinifloat(width=16, exponent_width=8)",
    "BlockMinifloat(width=32, exponent_bias_width=3, block_size=32)",
    "BlockLog(width=2)",
    "BlockLog(width=4, exponent_bias_width=4)",
    "BlockLog(width=32, block_size=32)",
    "MXInt(width=2, block_size=4)",
    "MXInt(width=32, block_size=(2, 8))",
    "MXFP(exponent_width=5, mantissa_width=2)",
    "MXFP(exponent_width=2, mantissa_width=3)",
    "MXFP(exponent_width=3, mantissa_width=2)",
    "MXFP(exponent_width=2, mantissa_width=1, block_size=16)",
]
"""Texts, because a format that cannot be built should fail a test and not the collection."""

BLOCKS = [text for text in FORMATS if hasattr(parse(text), "block_size")]
MEANS = [text for text in FORMATS if "scale=per" in text or text.startswith("Ternary")]
ELEMENTS = [text for text in FORMATS if text not in BLOCKS and text not in MEANS]

EDGES = torch.tensor(
    [
        0.0,
        1e-45,
        3e-45,
        1.1e-38,
        1.2e-38,
        1e-30,
        0.1,
        0.5,
        0.75,
        1.0,
        1.5,
        448.0,
        1e30,
        3.4028235e38,
    ]
)
"""Zero, the smallest subnormal numbers, both sides of the smallest normal one, the largest."""

_any_float = st.floats(allow_nan=False, allow_infinity=False, width=32)
_common_float = st.builds(math.ldexp, st.integers(-600, 600), st.integers(-16, 4))
rows = st.lists(_any_float | _common_float, min_size=1, max_size=40).map(torch.tensor)
"""Tensors of one dimension; the second kind of number often lies halfway between two values."""


def mixed(*shape: int, seed: int = 0) -> Tensor:
    """Numbers of both signs over 40 binades, a few of them from ``EDGES``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x * torch.exp2(torch.randint(-20, 20, shape, generator=generator))
    edge = EDGES[torch.randint(0, len(EDGES), shape, generator=generator)]
    rare = torch.rand(shape, generator=generator) < 0.1
    return torch.where(rare, edge.copysign(x), x)


def hard_input(*shape: int) -> Tensor:
    """``mixed``, with a NaN, infinities, zeros of both signs and zeros at ``x[1]``."""
    x = mixed(*(shape or (6, 33)))
    x.view(-1)[:5] = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0])
    x[1] = 0.0
    return x


def with_scales(fmt: NumberFormat) -> list[Tensor | None]:
    """Without learned scales, and with such that are no powers of two."""
    initial = fmt.initial_scales()
    return [None] if initial is None else [None, initial * 0.77]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every value, where NaN equals NaN."""
    nan = torch.equal(a.isnan(), b.isnan())
    return a.dtype == b.dtype and nan and torch.equal(a.nan_to_num(), b.nan_to_num())


def table(fmt: NumberFormat, shared: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Every value of a format, ascending, and the lowest of its codes; float64 and int64."""
    codes = torch.arange(2**fmt.code_bits)
    values = fmt.decode(Encoded(codes, shared, torch.float64))
    lowest: dict[float, int] = {}
    for value, code in zip(values.tolist(), codes.tolist(), strict=True):
        lowest.setdefault(value, code)
    ascending = sorted(lowest)
    return torch.tensor(ascending, dtype=torch.float64), torch.tensor(
        [lowest[v] for v in ascending]
    )


def nearest(x: Tensor, values: Tensor, codes: Tensor) -> Tensor:
    """Round by trying every value. Ties go to the even code, or away from zero if none is even."""
    inside = x.double().clamp(values[0], values[-1])
    distance = (inside[..., None] - values).abs()
    tied = distance == distance.min(-1, keepdim=True).values
    from_middle = (torch.arange(len(values)) - len(values) // 2).abs() / len(values)
    preference = 1.0 + (codes % 2 == 0) + from_middle
    return values[(tied * preference).argmax(-1)]


def around(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values, the points halfway between neighbours, and the floats next to all of them."""
    halfway = (values[1:] + values[:-1]) / 2
    points = torch.cat([values, halfway, 3 * values[[0, -1]]]).to(dtype)
    infinity = torch.tensor(math.inf, dtype=dtype)
    return torch.cat([points, points.nextafter(infinity), points.nextafter(-infinity)])


def round_exactly(x: float, mantissa: int, lowest: int, largest: float) -> float:
    """Round one number to digits after its leading one, in whole numbers; halves to even."""
    exponent = max(math.frexp(x)[1] - 1, lowest) - mantissa
    whole = round(Fraction(x) / Fraction(2) ** exponent)
    return min(max(math.ldexp(whole, exponent), -largest), largest)


def nearest_power(x: float, lowest: int, highest: int) -> float:
    """Round one number to a power of two: up if its square is above the product of neighbours."""
    square = Fraction(x) ** 2
    if 2 * square < Fraction(4) ** lowest:
        return 0.0
    exponent = min(max(math.frexp(x)[1] - 1, lowest), highest)
    if square > 2 * Fraction(4) ** exponent and exponent < highest:
        exponent += 1
    return math.copysign(math.ldexp(1.0, exponent), x)

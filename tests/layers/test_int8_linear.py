"""A linear layer by int8 products computes what the layer that rounds in float computes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, library, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import BlockFP, Integer, LearnedInteger, MXInt, NumberFormat
from lightning_adls.kernels import compiled
from lightning_adls.kernels.int8 import ENGINES, Rounding, int8_linear, pack
from lightning_adls.layers import LayerFormats, QuantizedLinear
from lightning_adls.layers.int8_linear import (
    Int8BlockLinear,
    Int8Linear,
    lowered,
    reason_against,
)

every_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def layer(
    input: NumberFormat, weight: NumberFormat, shape: tuple[int, int] = (37, 21), bias: bool = True
) -> QuantizedLinear:
    """A quantised layer in eval mode, whose weights reach the ends of the range and beyond."""
    formats = LayerFormats(input, weight, Integer(8, 3))
    new = QuantizedLinear(*shape, bias=bias, formats=formats)
    _, high = weight.limits(torch.zeros(1))
    new.weight.normal_(std=float(high))
    for role in ("input", "weight"):
        if (fitted := new.fitted_of(role)) is not None:
            fitted.fill_(1.0)
    return new.eval()


def inputs(fmt: NumberFormat, *shape: int) -> Tensor:
    """Values all over the range of a format and outside, ties, zeros of both signs, infinities."""
    low, high = (float(bound) for bound in fmt.limits(torch.zeros(1)))
    x = torch.empty(*shape).uniform_(1.5 * min(low, -high), 1.5 * high)
    x.view(-1)[:4] = torch.tensor([torch.inf, -torch.inf, -0.0, high / 254])[: x.numel()]
    return x


widths = st.integers(2, 8)
integers = st.builds(
    Integer, widths, st.integers(-5, 12), st.sampled_from(("nearest", "floor")), st.booleans()
)


@given(
    fmt=integers,
    weight=integers.filter(lambda fmt: fmt.signed or fmt.width < 8),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    rows=st.integers(1, 20),
    bias=st.booleans(),
    engine=st.sampled_from(ENGINES),
)
def test_integers_are_multiplied_bit_for_bit(
    fmt: Integer, weight: Integer, shape: tuple[int, int], rows: int, bias: bool, engine: str
) -> None:
    old = layer(fmt, weight, shape, bias)
    assert reason_against(old) is None
    new = Int8Linear.of(old, engine)
    x = inputs(fmt, rows, shape[0])
    # In float64 all is exact; the new layer rounds the sum once, and once more with the bias.
    rounded_bias = old.rounded_bias()
    sums = (fmt(x).double() @ weight(old.weight).double().T).float()
    expected = sums if rounded_bias is None else sums + rounded_bias
    assert torch.equal(new(x), expected)
    assert torch.equal(new.weight, old.rounded_weight())


@every_engine
@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_small_sums_are_those_of_the_layer_that_emulates(
    width: int, signed: bool, engine: str
) -> None:
    # Sums of 24 bits are exact in float32, in whatever order they are taken.
    fmt = Integer(width, 4, signed=signed)
    old = layer(fmt, Integer(width, 5))
    new = Int8Linear.of(old, engine)
    x = inputs(fmt, 2, 5, 37)
    assert torch.equal(new(x), old(x))


@every_engine
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [2, 5, 8])
def test_learned_steps_agree_up_to_the_order_of_sums(width: int, signed: bool, engine: str) -> None:
    fmt = LearnedInteger(width, signed=signed)
    old = layer(fmt, LearnedInteger(width))
    for role, step in (("input", -0.0137), ("weight", 0.0071)):
        scales = old.scales_of(role)
        assert scales is not None
        scales.fill_(step)
    x = inputs(fmt, 50, 37)
    new, expected = Int8Linear.of(old, engine)(x), old(x)
    assert (new - expected).abs().max() < 1e-5 * expected.abs().max()
    codes = torch.round(old.rounded_weight() / torch.tensor(0.0071))
    assert torch.equal(Int8Linear.of(old, engine).codes, codes.to(torch.int8))


def test_the_largest_products_do_not_saturate() -> None:
    # Instructions that multiply bytes add two products in 16 bits: 2 * 255 * 127 is too much.
    fmt, weight = Integer(8, 0, signed=False), Integer(8, 0)
    old = layer(fmt, weight, (4096, 17), bias=False)
    for value, k in ((1e9, 127.0), (-1e9, -128.0)):
        old.weight.fill_(value)
        for engine in ENGINES:
            out = Int8Linear.of(old, engine)(torch.full((9, 4096), 1e9))
            assert torch.equal(out, torch.full((9, 17), 255 * 4096 * k))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 13, 97, 200])
def test_rows_and_columns_are_divided_among_threads_without_a_rest(rows: int, threads: int) -> None:
    x = torch.randint(-128, 128, (rows, 33)).float()
    codes = torch.randint(-128, 128, (49, 33), dtype=torch.int8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = int8_linear(
            *(x, pack(codes, "avx2"), torch.zeros(64), torch.ones(2), Rounding(-128, 127), 49),
            "avx2",
        )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, x @ codes.float().T)


def test_wide_rows_are_taken_in_few_at_a_time() -> None:
    fmt = Integer(8, 4)
    old = layer(fmt, Integer(8, 9), (40_001, 3), bias=False)
    x = inputs(fmt, 20, 40_001)
    expected = (fmt(x).double() @ old.rounded_weight().double().T).float()
    assert torch.equal(Int8Linear.of(old, "avx2")(x), expected)


@every_engine
def test_a_nan_becomes_the_smallest_integer(engine: str) -> None:
    old = layer(Integer(8, 4), Integer(8, 4), (3, 2))
    new = Int8Linear.of(old, engine)
    x = torch.tensor([[1.0, torch.nan, 2.0]])
    assert torch.equal(new(x), new(x.nan_to_num(-8.0)))


@every_engine
def test_empty_batches_and_single_vectors_have_the_shapes_of_a_linear_layer(engine: str) -> None:
    old = layer(Integer(8, 4), Integer(8, 4), (5, 3))
    new = Int8Linear.of(old, engine)
    for shape in ((5,), (0, 5), (2, 0, 5), (1, 5), (2, 3, 4, 5)):
        x = torch.randn(shape)
        assert torch.equal(new(x), old(x))
    x = torch.randn(5, 7)
    assert torch.equal(new(x.mT), old(x.mT)), "of any strides"


@every_engine
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_layer_keeps_its_dtype(dtype: torch.dtype, engine: str) -> None:
    old = layer(Integer(8, 4), Integer(8, 7)).to(dtype)
    new = Int8Linear.of(old, engine)
    x = torch.randn(4, 37, dtype=dtype)
    exact = old.float()(x.float())
    assert new(x).dtype == dtype
    assert torch.equal(new(x), exact.to(dtype))


@every_engine
def test_masked_weights_are_zeros(engine: str) -> None:
    old = layer(Integer(8, 4), Integer(8, 4))
    old.weight_mask = torch.rand(21, 37) < 0.5
    new = Int8Linear.of(old, engine)
    x = torch.randn(4, 37)
    assert torch.equal(new(x), old(x))
    assert not new.codes[~old.weight_mask].any()


@every_engine
def test_the_state_dict_holds_what_is_computed(engine: str, tmp_path: Path) -> None:
    old, other = (layer(Integer(8, 4), Integer(8, 4)) for _ in range(2))
    new, loaded = Int8Linear.of(old, engine), Int8Linear.of(other, engine)
    torch.save(new.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = torch.randn(4, 37)
    assert torch.equal(loaded(x), old(x))


def test_the_operator_is_a_good_citizen() -> None:
    new = Int8Linear.of(layer(Integer(8, 4), Integer(8, 4)), "avx2")
    arguments = (torch.randn(3, 37), new.packed, new.bias, new.steps, -128, 127, False, 21)
    library.opcheck(torch.ops.lightning_adls.int8_linear.default, arguments)


@pytest.mark.parametrize(
    ("formats", "reason"),
    [
        (LayerFormats(), "nothing is rounded"),
        (LayerFormats(weight=Integer()), "the input is not rounded"),
        (LayerFormats(Integer(), None, Integer()), "the weight is not rounded"),
        (LayerFormats(Integer(9), Integer()), "the input has 9 bits, more than 8"),
        (LayerFormats(Integer(), LearnedInteger(16)), "the weight has 16 bits, more than 8"),
        (LayerFormats(Integer(), Integer(signed=False)), "the weight has 8 bits without a sign"),
        (LayerFormats(LearnedInteger(), Integer()), "the learned scale of the input is not fitted"),
        (
            LayerFormats(Integer(frac_width=100), Integer(frac_width=100)),
            "products of the steps leave the range of float32",
        ),
    ],
)
def test_what_is_not_lowered_says_why(formats: LayerFormats, reason: str) -> None:
    assert reason_against(QuantizedLinear(3, 2, formats=formats)) == reason


@pytest.mark.parametrize("name", NumberFormat.classes)
@pytest.mark.parametrize("role", ["input", "weight"])
def test_of_all_formats_integers_are_lowered(name: str, role: str) -> None:
    fmt = NumberFormat.classes[name]()
    formats = {"input": Integer(), "weight": Integer(), role: fmt}
    old = QuantizedLinear(32, 4, formats=LayerFormats(**formats))
    old.train()(torch.randn(4, 32))  # fits learned scales
    reason = reason_against(old.eval())
    if name in ("Integer", "LearnedInteger"):
        assert reason is None
    elif name in ("MXInt", "BlockFP"):
        assert reason == "one of input and weight has blocks, and the other has none"
    else:
        assert reason == f"the {role} is rounded to {fmt}, no integers"


blocks = st.one_of(
    st.builds(MXInt, widths, block_size=st.sampled_from((16, 18, 32, -1))),
    st.builds(BlockFP, widths, st.sampled_from((3, 8)), block_size=st.sampled_from((16, 18, 32))),
)


@given(
    fmt=blocks,
    weight=blocks,
    inner=st.integers(16, 100),
    columns=st.integers(1, 40),
    rows=st.integers(1, 20),
    magnitude=st.integers(-30, 30),
)
def test_blocks_are_rounded_bit_for_bit_and_added_in_float32(
    fmt: MXInt | BlockFP,
    weight: MXInt | BlockFP,
    inner: int,
    columns: int,
    rows: int,
    magnitude: int,
) -> None:
    formats = LayerFormats(fmt, replace(weight, block_size=fmt.block_size))
    old = QuantizedLinear(inner, columns, formats=formats).eval()
    old.weight_mask = torch.rand(columns, inner) < 0.8
    # Magnitudes of all sizes in a row, so that blocks have different scales, and zeros.
    x = torch.randn(rows, inner) * 2.0 ** torch.randint(-20, 20, (rows, inner))
    x = (x * 2.0**magnitude).where(torch.rand(rows, inner) < 0.9, 0.0)
    x[0, :4] = torch.tensor([torch.inf, -torch.inf, -0.0, 1.5])
    assert reason_against(old) is None
    new = lowered(old, "onednn")
    assert isinstance(new, Int8BlockLinear)
    assert torch.equal(new.weight, old.rounded_weight())
    products = fmt(x).double().unsqueeze(1) * old.rounded_weight().double()
    expected = products.sum(-1) + (0.0 if old.bias is None else old.bias.double())
    sizes = products.abs().sum(-1) + (0.0 if old.bias is None else old.bias.abs())
    assert ((new(x) - expected).abs() <= sizes * 2**-21).all()


def test_one_block_of_small_integers_is_exact() -> None:
    fmt = MXInt(block_size=-1)
    old = QuantizedLinear(33, 7, bias=False, formats=LayerFormats(fmt, fmt)).eval()
    x = torch.randn(5, 33)
    assert torch.equal(lowered(old, "avx2")(x), old(x))
    exact = lowered(old, "avx2")(x.bfloat16())
    assert exact.dtype == torch.bfloat16
    again = Int8BlockLinear.of(QuantizedLinear(33, 7, formats=LayerFormats(fmt, fmt)).eval())
    again.load_state_dict(lowered(old, "avx2").state_dict())
    assert torch.equal(again(x), old(x))
    arguments = (x, again.packed, again.bias, again.packed_steps, 33, -127, 127, 8, 7)
    library.opcheck(torch.ops.lightning_adls.int8_block_linear.default, arguments)


@pytest.mark.parametrize(
    ("input", "weight", "reason"),
    [
        (MXInt(), Integer(), "one of input and weight has blocks, and the other has none"),
        (MXInt(), MXInt(block_size=16), "blocks of input and weight are not of one size"),
        (MXInt(block_size=(2, 16)), MXInt(block_size=(2, 16)), "blocks are tiles of several rows"),
        (
            MXInt(block_size=8),
            BlockFP(block_size=8),
            "blocks have 8 numbers; an even number of at least 16 pays",
        ),
        (
            MXInt(block_size=17),
            MXInt(block_size=17),
            "blocks have 17 numbers; an even number of at least 16 pays",
        ),
        (BlockFP(width=9), BlockFP(width=4), "the input has 9 bits, more than 8"),
    ],
)
def test_blocks_that_do_not_pay_say_why(
    input: NumberFormat, weight: NumberFormat, reason: str
) -> None:
    old = QuantizedLinear(64, 4, formats=LayerFormats(input, weight))
    assert reason_against(old) == reason


def test_switches_and_other_numbers_are_left() -> None:
    old = layer(Integer(), Integer())
    old.enabled = False
    assert reason_against(old) == "rounding is switched off"
    old.enabled, old.input_sparsity = True, 0.5
    assert reason_against(old) == "features of the input are set to zero"
    old.input_sparsity = 0.0
    assert reason_against(old.double()) == "it computes in float64"
    assert reason_against(old.to("meta")) == "the weight lies on meta"
    assert reason_against(nn.Linear(2, 2)) == "nothing is rounded"


def test_training_and_other_devices_are_refused() -> None:
    new = Int8Linear.of(layer(Integer(), Integer()), "avx2")
    with pytest.raises(InputValueError, match="train the model that was lowered"):
        new.train()
    assert not new.eval().training
    with pytest.raises(InputValueError, match="compute on the CPU alone"):
        new.to("meta")
    with torch.enable_grad(), pytest.raises(InputValueError, match="have none"):
        new(torch.randn(2, 37, requires_grad=True)).sum().backward()


def test_a_compiler_that_fails_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    compiled.load_kernels.cache_clear()
    try:
        with pytest.raises(InputValueError, match=r"could not compile int8\.cpp"):
            compiled.load_kernels("int8")
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(InputValueError, match=r"no C\+\+ compiler is here"):
            compiled.load_kernels("int8")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    finally:
        compiled.load_kernels.cache_clear()

"""Every way to decode gives the numbers of the formats' own arithmetic, to the last bit."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from coded_samples import any_codes, decoded_by_format, decoded_by_torch, hard, lookup_of
from packed_oracle import same
from test_coded import FORMATS
from torch import Tensor, library

from lightning_adls.errors import InputValueError
from lightning_adls.formats import parse
from lightning_adls.kernels import compiled, decode_compiled, decode_triton, decoding
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.compiled import PAYS_AFTER, Kernels
from lightning_adls.kernels.encoding import encode

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One row, ragged rows, blocks that are cut, rows that begin within a byte, several threads.
SHAPES = ((1, 37), (37, 31), (8, 64), (40, 1300), (260, 301))
WIDTHS = [f"Integer(width={width}, frac_width=3)" for width in range(2, 17)]
OTHERS = (
    "LearnedInteger(width=13)",
    "ResidualSign(levels=6, scale=per_channel)",  # a table for each row, too large for registers
    "MXInt(width=16, block_size=8)",
    "MXFP(exponent_width=5, mantissa_width=2, block_size=(2, 32))",
    "BlockFP(width=8, exponent_width=3, block_size=1)",
    "BlockLog(width=8, block_size=-1)",
)
ALL = [*FORMATS, *WIDTHS, *OTHERS]

needs_kernel = pytest.mark.skipif(
    not decode_compiled.KERNELS.is_possible, reason="needs AVX2, F16C and a C++ compiler"
)
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def compiled_values(coded: Coded) -> Tensor:
    lookup = lookup_of(coded)
    assert lookup is not None
    parts = coded.codes, coded.shared, coded.mask
    return decode_compiled.decode_compiled(coded.shapes, lookup, *parts)


def samples(text: str) -> Iterator[Coded]:
    """Those of a format that have tables."""
    fmt = parse(text)
    for seed, shape in enumerate(SHAPES):
        dtype = DTYPES[seed % 3]
        for share in (None, 0.5):
            coded = any_codes(fmt, shape, dtype, share, seed)
            if lookup_of(coded) is not None:
                yield coded


@needs_kernel
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("text", ALL)
def test_any_codes_are_decoded_to_what_their_format_says(text: str) -> None:
    for coded in samples(text):
        expected = decoded_by_format(coded)
        assert same(decoded_by_torch(coded), expected)
        assert same(compiled_values(coded), expected)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", FORMATS)
def test_what_was_encoded_is_decoded(text: str, dtype: torch.dtype) -> None:
    fmt, x = parse(text), hard((24, 77), dtype, 0)
    mask = torch.rand(x.shape) < 0.7
    for part in (None, mask):
        coded = encode(fmt, x, None, part)
        if lookup_of(coded) is None:
            continue
        rounded = fmt(x) if part is None else fmt(x).masked_fill(~part, 0.0)
        assert torch.equal(compiled_values(coded), rounded)


@needs_kernel
def test_matrices_without_elements_have_no_values() -> None:
    for shape in ((0, 5), (3, 0)):
        coded = encode(parse("MXInt"), torch.zeros(shape))
        assert compiled_values(coded).shape == shape


@needs_kernel
def test_subnormal_numbers_stay_where_a_thread_takes_them_for_zero() -> None:
    coded = encode(parse("MXInt"), torch.full((2, 64), 2.0**-126) * torch.arange(1, 65) / 64)
    expected = decoded_by_format(coded)
    assert (expected.abs() < 2.0**-126).any()
    torch.set_flush_denormal(True)
    try:
        values = compiled_values(coded)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(values.view(torch.int32), expected.view(torch.int32))


# When it is compiled.


class Tried(Exception):
    """The kernel was asked for."""


def fresh(name: str) -> Kernels:
    return Kernels(name, ("avx2",), "weights are decoded", lambda _: None)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kernels]:
    """One of a machine on which nothing was compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    loaded = compiled.load_kernels
    loaded.cache_clear()
    yield fresh("decode")
    loaded.cache_clear()


@needs_kernel
def test_few_elements_are_not_compiled_for(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(name: str) -> None:
        raise Tried(name)

    monkeypatch.setattr(compiled, "load_kernels", tried)
    for _ in range(3):
        assert not kernels.pay(PAYS_AFTER // 4)
    with pytest.raises(Tried, match="decode"):
        kernels.pay(PAYS_AFTER // 4)
    monkeypatch.setattr(compiled, "is_kept", lambda _: True)  # by an earlier process
    with pytest.raises(Tried):
        fresh("decode").pay(1)


@needs_kernel
def test_a_compiler_that_fails_is_warned_of_once(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(UserWarning, match=r"could not compile decode\.cpp.*by torch"):
        assert not kernels.pay(PAYS_AFTER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.pay(PAYS_AFTER)


def test_without_a_compiler_torch_decodes(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not kernels.pay(PAYS_AFTER)
    with pytest.raises(InputValueError, match=r"no C\+\+ compiler is here"):
        kernels.functions  # noqa: B018


@needs_kernel
def test_the_operator_takes_the_kernel_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = encode(parse("MXInt(width=5)"), hard((9, 70), torch.float32, 1))
    called: list[bool] = []

    def noted(*arguments: object) -> Tensor:
        called.append(True)
        return decode_compiled.decode_compiled(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "decode_compiled", noted)
    for pays in (False, True):
        monkeypatch.setattr(decode_compiled.KERNELS, "pay", lambda _, pays=pays: pays)
        assert torch.equal(coded.decode(), decoded_by_format(coded))
        assert called == [True] * pays


def test_the_operator_is_one_for_compilers() -> None:
    for mask in (None, torch.rand(4, 40) < 0.1):
        coded = encode(parse("MXInt"), torch.randn(4, 40), None, mask)
        shapes = coded.shapes
        arguments = (coded.codes, coded.shared, coded.mask, str(shapes.format))
        library.opcheck(
            torch.ops.lightning_adls.decode.default,
            (*arguments, list(shapes.shape), shapes.dtype, shapes.kept),
        )


# On GPUs.

INTERPRETED = """
import torch
from coded_samples import any_codes, decoded_by_format, lookup_of
from packed_oracle import same
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.kernels.decode_triton import decode_triton
texts = [*NumberFormat.classes, "Integer(width=3)", "Integer(width=11)", "Integer(width=16)"]
texts += ["MXInt(width=5, block_size=5)", "BlockFP(width=6, exponent_width=5, block_size=(3, 4))"]
texts += ["Ternary(scale=per_channel)"]
dtypes = torch.float32, torch.bfloat16, torch.float16
for number, text in enumerate(texts):
    for seed, share in enumerate((None, 0.4)):
        dtype = dtypes[(number + seed) % 3]
        coded = any_codes(parse(text), (37, 31) if seed else (3, 500), dtype, share, seed)
        parts = coded.codes, coded.shared, coded.mask
        lookup = lookup_of(coded)
        if lookup is None:
            assert parse(text).learns_scales
            continue
        values = decode_triton(coded.shapes, lookup, *parts)
        assert same(values, decoded_by_format(coded)), (text, dtype, share)
"""

# A NaN of a CPU is 0x7FC00000, one of a GPU 0x7FFFFFFF: all bits of a mantissa are one.
NANS = """
import torch
from dataclasses import replace
from coded_samples import lookup_of
from lightning_adls.formats import parse
from lightning_adls.kernels import decode_compiled
from lightning_adls.kernels.decode_triton import decode_triton
from lightning_adls.kernels.encoding import encode
for dtype in torch.float32, torch.bfloat16, torch.float16:
    coded = encode(parse("Integer(width=3)"), torch.randn(4, 40).to(dtype))
    lookup = lookup_of(coded)
    for bits in 0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1:
        nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
        odd = replace(lookup, codes=nan.expand_as(lookup.codes).contiguous(), rule=None)
        kernels = [decode_triton]
        if decode_compiled.KERNELS.is_possible:
            kernels.append(decode_compiled.decode_compiled)
        for decode in kernels:
            values = decode(coded.shapes, odd, coded.codes, coded.shared, coded.mask)
            assert values.isnan().all(), (decode.__name__, dtype, hex(bits), values)
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_adls.kernels import decode_triton
# Elements, types and constants of a format without blocks, of one with them, and of a mask.
for values, width, tables, shared, masked, large in (
    ("fp32", 3, False, 0, False, False),
    ("bf16", 8, False, 8, False, False),
    ("fp16", 11, False, 5, True, True),
    ("bf16", 1, True, 0, True, False),
):
    kinds = dict(codes="*u8", size="i32", table="*fp32", factors="*fp32", shared="*u8")
    kinds |= dict(shared_size="i32", mask="*u8", starts="*i64", values="*" + values)
    kinds |= dict(elements="i32", columns="i32", limit="fp32")
    constants = dict(WIDTH=width, TABLES=tables, SHARED=shared, TILE_ROWS=1, TILE_COLUMNS=32)
    constants |= dict(MASKED=masked, LARGE=large, ELEMENTS=1024)
    kinds |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(decode_triton._compiled_kernel, kinds, constants)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(binary.asm["cubin"]) > 0
    assert ".ftz" not in binary.asm["ptx"]  # factors of the smallest blocks are subnormal
"""


def run(code: str, **environment: str) -> None:
    # In a process of its own: Triton decides at its import whether to interpret.
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@needs_triton
def test_the_kernel_for_gpus_is_exact_in_the_interpreter() -> None:
    run(INTERPRETED, TRITON_INTERPRET="1")


@needs_triton
def test_a_nan_of_any_bits_stays_one() -> None:
    run(NANS, TRITON_INTERPRET="1")


@pytest.mark.long
@needs_triton
def test_the_kernel_for_gpus_compiles_and_keeps_subnormal_numbers(tmp_path: Path) -> None:
    run(COMPILED, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def test_without_triton_the_kernel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = encode(parse("MXInt"), torch.randn(4, 40))
    lookup = lookup_of(coded)
    assert lookup is not None
    monkeypatch.setattr(decode_triton, "triton", None)
    with pytest.raises(ImportError, match="needs Triton, which is not installed; `pip install tri"):
        decode_triton.decode_triton(coded.shapes, lookup, coded.codes, coded.shared, None)


def test_importing_the_operator_does_not_import_triton() -> None:
    run("import sys, lightning_adls.kernels.coded; assert 'triton' not in sys.modules")


@pytest.mark.gpu
@pytest.mark.parametrize("text", ALL)
def test_cuda_decodes_as_the_cpu_does(text: str) -> None:
    for seed, shape in enumerate(SHAPES):
        for share in (None, 0.5):
            coded = any_codes(parse(text), shape, DTYPES[seed % 3], share, seed)
            moved = {name: part.cuda() for name, part in coded.parts().items()}
            on_device = coded.with_parts(moved, coded.shapes.dtype).decode()
            assert same(on_device.cpu(), decoded_by_format(coded))

"""The Triton kernel: interpreted, compiled without a device, and on one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from packed_oracle import all_pairs, hard_input, same, unpacked
from torch import library

from lightning_adls.kernels import dequantize, mxint8_triton, quantize
from lightning_adls.kernels.mxint8 import DTYPES

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

INTERPRETED = """
import torch
from packed_oracle import all_pairs, same, unpacked
from lightning_adls.kernels.mxint8 import DTYPES
from lightning_adls.kernels.mxint8_triton import dequantize_triton
for dtype in DTYPES:
    for columns in (256, 250, 7):  # 2048 blocks of 16 programs; ragged rows; less than a block
        packed = all_pairs(columns)
        assert same(dequantize_triton(*packed, dtype), unpacked(*packed, dtype)), (dtype, columns)
    codes, exponents = all_pairs()
    strided = codes.t().contiguous().t(), exponents.t().contiguous().t()
    assert same(dequantize_triton(*strided, dtype), unpacked(codes, exponents, dtype)), dtype
    row = codes[0, :100].clone(), exponents[200, :4].clone()
    assert same(dequantize_triton(*row, dtype), unpacked(*row, dtype)), dtype
    empty = codes[:, :0], exponents[:, :0]
    assert dequantize_triton(*empty, dtype).shape == (256, 0)
"""

# The interpreter takes more than the compiler does, so that one is run too, down to machine code.
COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_adls.kernels import mxint8_triton
for element in ("fp32", "bf16", "fp16", "fp64"):
    kinds = dict(codes="*i8", exponents="*u8", values="*" + element, blocks="i32")
    kinds |= dict(blocks_per_row="i32", columns="i32", BLOCKS="constexpr")
    source = ASTSource(mxint8_triton._compiled_kernel, kinds, {"BLOCKS": 128})
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(binary.asm["cubin"]) > 0
    assert ".ftz" not in binary.asm["ptx"]  # the smallest scales are subnormal
"""


def run(code: str, **environment: str) -> None:
    # In a process of its own: Triton decides at its import whether to interpret.
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@needs_triton
def test_the_kernel_is_exact_in_the_interpreter() -> None:
    run(INTERPRETED, TRITON_INTERPRET="1")


@pytest.mark.long
@needs_triton
def test_the_kernel_compiles_and_keeps_subnormal_numbers(tmp_path: Path) -> None:
    run(COMPILED, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def test_without_triton_the_cuda_path_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mxint8_triton, "triton", None)
    with pytest.raises(ImportError, match="needs Triton, which is not installed; `pip install tri"):
        mxint8_triton.dequantize_triton(*all_pairs(), torch.float32)


@pytest.mark.long
def test_importing_the_kernels_does_not_import_triton() -> None:
    run("import sys, lightning_adls.kernels; assert 'triton' not in sys.modules")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [256, 250, 7, 0])
def test_cuda_gives_the_numbers_of_the_cpu(dtype: torch.dtype, columns: int) -> None:
    codes, exponents = all_pairs(columns)
    on_device = codes.cuda(), exponents.cuda()
    expected = unpacked(codes, exponents, dtype)
    assert same(dequantize(*on_device, dtype).cpu(), expected)
    torch._dynamo.reset()
    compiled = torch.compile(dequantize, fullgraph=True)
    assert same(compiled(*on_device, dtype).cpu(), expected)
    operator = torch.ops.lightning_adls.mxint8_dequantize.default
    numbers = [packed[:255] for packed in on_device]  # opcheck takes no NaN for another
    library.opcheck(operator, (*numbers, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_packs_as_the_cpu_does(dtype: torch.dtype) -> None:
    x = hard_input(dtype)
    for ours, expected in zip(quantize(x.cuda()), quantize(x), strict=True):
        assert torch.equal(ours.cpu(), expected)

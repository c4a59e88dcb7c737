"""Compiled formats give the values and gradients that eager ones do."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from oracle import FORMATS, MEANS, hard_input, same, with_scales
from torch import Tensor

from lightning_adls.formats import NumberFormat, parse

SAMPLE = [
    "MinifloatIEEE",
    "MinifloatIEEE(width=32, exponent_width=4, exponent_bias=3)",
    "Log(width=16)",
    "Binary(scale=per_tensor)",
    "Ternary",
    "ResidualSign",
    "LearnedInteger(width=5, signed=False)",
    "ElasticBinary(signed=False)",
    "Integer(width=6, frac_width=-3, rounding=floor)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "BlockLog",
    "MXFP",
]
"""One for each way of rounding, because inductor takes its time."""


class Case(NamedTuple):
    """A tensor to round; ``text`` is the format as it is listed, whatever its gradient."""

    text: str
    fmt: NumberFormat
    x: Tensor
    scales: Tensor | None


def at_bounds(fmt: NumberFormat, x: Tensor, scales: Tensor | None) -> Tensor:
    """``x`` with values at the limits and next outside; the largest of a row stays what it is."""
    low, high = (torch.as_tensor(limit).expand_as(x) for limit in fmt._limits(x, scales))
    small = x.abs() < x.nan_to_num(posinf=0.0, neginf=0.0).abs().amax(-1, keepdim=True) / 4
    place = torch.arange(x.numel()).view(x.shape) % 8
    for i, bound in enumerate((low, high, low.nextafter(2 * low), high.nextafter(2 * high))):
        x = torch.where(small & (place == 2 * i), bound, x)
    return x


def cases(texts: Sequence[str], ste: str, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Case]:
    found = []
    for text in texts:
        fmt, x = dataclasses.replace(parse(text), ste=ste), hard_input(*shape)
        for scales in with_scales(fmt):
            # A NaN would be all that is left of the gradient of scales.
            x = x if scales is None else x.nan_to_num()
            found.append(Case(text, fmt, at_bounds(fmt, x, scales).to(dtype), scales))
    return found


def use(inputs: Sequence[Case]) -> list[Tensor]:
    """Round and go on computing, which inductor does in one loop."""
    return [2 * fmt(x, scales) for _, fmt, x, scales in inputs]


def leaf_of(case: Case) -> Case:
    scales = None if case.scales is None else case.scales.clone().requires_grad_()
    return case._replace(x=case.x.clone().requires_grad_(), scales=scales)


def assert_compiles(tried: Sequence[Case], backend: str) -> None:
    """One graph gives the values of eager formats, gradients of inputs and those of scales."""
    torch._dynamo.reset()
    compiled = torch.compile(use, fullgraph=True, backend=backend)
    found = []
    # Compiled first: in memory that eager results leave behind, what is not written is right too.
    for way in (compiled, use):
        leaves = [leaf_of(case) for case in tried]
        outputs = way(leaves)
        torch.manual_seed(1)
        torch.autograd.backward(outputs, [torch.randn_like(output) for output in outputs])
        found.append(zip(leaves, outputs, strict=True))
    for (ours, output), (theirs, expected) in zip(*found, strict=True):
        said = f"{ours.fmt} ste={ours.fmt.ste} {ours.x.dtype} {tuple(ours.x.shape)}"
        assert agree(ours.text, output.detach(), expected.detach()), said
        assert ours.x.grad is not None
        assert theirs.x.grad is not None
        assert same(ours.x.grad, theirs.x.grad), said
        if ours.scales is not None and theirs.scales is not None:
            # The order of a sum.
            torch.testing.assert_close(ours.scales.grad, theirs.scales.grad, rtol=1e-4, atol=0)


def agree(text: str, ours: Tensor, expected: Tensor) -> bool:
    """Equal; but for the last bit of a mean, which depends on the order of a sum."""
    if text not in MEANS:
        return same(ours, expected)
    precision = torch.finfo(expected.dtype).eps
    return torch.allclose(ours, expected, rtol=precision, atol=0, equal_nan=True)


@pytest.mark.long
def test_every_format_compiles_to_one_graph_that_gives_the_same() -> None:
    texts = [*NumberFormat.classes, *SAMPLE]
    assert_compiles(cases(texts, "clipped", torch.float32, (6, 33)), "aot_eager")


def test_inductor_gives_the_same_bits() -> None:
    assert_compiles(cases(SAMPLE, "clipped", torch.float32, (6, 33)), "inductor")


@pytest.mark.inductor
@pytest.mark.parametrize("text", FORMATS)
def test_inductor_gives_the_same_bits_of_every_format(text: str) -> None:
    # Every pair of gradient, dtype and shape.
    wide, narrow, rows, row = torch.float32, torch.bfloat16, (6, 33), (40,)
    tried = cases([text], "clipped", wide, rows) + cases([text], "clipped", narrow, row)
    tried += cases([text], "identity", wide, row) + cases([text], "identity", narrow, rows)
    assert_compiles(tried, "inductor")

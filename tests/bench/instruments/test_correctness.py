"""Errors relative to a reference."""

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.bench import relative_error
from lightning_adls.bench.instruments.correctness import Result, first_tensor


@given(st.floats(1e-6, 1e3), st.integers(0, 10**6))
def test_scaling_a_tensor_is_an_error_of_that_share(share: float, seed: int) -> None:
    x = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert relative_error(x * (1 + share), x) == pytest.approx(share, rel=1e-6)
    assert relative_error(x, x) == 0


def test_what_is_not_a_number_is_infinitely_wrong() -> None:
    x = torch.ones(3)
    for wrong in (math.nan, math.inf):
        assert relative_error(torch.tensor([1.0, wrong, 1.0]), x) == math.inf
    assert relative_error(x, torch.zeros(3)) == math.inf
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"found has shape \(3, 1\), the reference \(3,\)"):
        relative_error(torch.ones(3, 1), torch.ones(3))


def test_the_worst_of_output_loss_and_gradients_counts() -> None:
    one = torch.ones(1)
    right = Result(one, one, one)
    assert Result(one, one, one).error_to(right) == 0
    assert Result(one * 2, one, one).error_to(right) == 1
    assert Result(one, one * 3, one).error_to(right) == 2
    assert Result(one, one, one * 4).error_to(right) == 3


X, Y = torch.ones(2), torch.zeros(2)


@pytest.mark.parametrize(
    "output",
    [X, (X, Y), [None, X], OrderedDict(a=X, b=Y), SimpleNamespace(loss=Y, logits=X)],
    ids=["tensor", "tuple", "list", "mapping", "logits"],
)
def test_the_tensor_of_an_output_is_found(output: Any) -> None:
    assert first_tensor(output) is X


@pytest.mark.parametrize("output", [None, "text", [], {"a": 1}])
def test_an_output_without_a_tensor_is_refused(output: Any) -> None:
    with pytest.raises(TypeError, match="holds no tensor"):
        first_tensor(output)

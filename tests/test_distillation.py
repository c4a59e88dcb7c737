"""The losses of distillation against the formulas of their papers, in numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_adls.distillation import hidden_state_loss, soft_label_loss

number = st.floats(-20, 20, width=32)
pairs = st.integers(2, 5).flatmap(
    lambda classes: st.lists(
        st.tuples(*[st.lists(number, min_size=classes, max_size=classes)] * 2),
        min_size=1,
        max_size=4,
    )
)


def probabilities(logits: Tensor, temperature: float) -> np.ndarray:
    powers = np.exp(logits.double().numpy() / temperature)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@given(rows=pairs, temperature=st.floats(0.5, 10))
def test_soft_labels_are_compared_by_their_divergence(
    rows: list[tuple[list[float], list[float]]], temperature: float
) -> None:
    student, teacher = (torch.tensor(side, dtype=torch.float64) for side in zip(*rows, strict=True))
    p, q = probabilities(teacher, temperature), probabilities(student, temperature)
    expected = (p * np.log(p / q)).sum(-1).mean() * temperature**2
    loss = soft_label_loss(student, teacher, temperature)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert loss >= -1e-9


def test_the_gradient_is_that_of_the_softened_probabilities() -> None:
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    soft_label_loss(student, teacher, 3.0).backward()
    p, q = probabilities(teacher.detach(), 3.0), probabilities(student.detach(), 3.0)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), 3.0 * (q - p) / 6, rtol=1e-9, atol=1e-12)
    assert teacher.grad is None


def test_at_high_temperatures_logits_are_matched_by_their_difference() -> None:
    # Hinton et al. 2015, section 2.1: for logits of zero mean, (student - teacher) / classes.
    logits = torch.randn(2, 1, 5, dtype=torch.float64)
    student, teacher = logits - logits.mean(-1, keepdim=True)
    student.requires_grad_()
    soft_label_loss(student, teacher, 1e4).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 5, rtol=1e-3, atol=0)


def test_every_token_counts_alike() -> None:
    student, teacher = torch.randn(2, 3, 7, 4)
    flat = soft_label_loss(student.view(21, 4), teacher.view(21, 4))
    assert torch.equal(soft_label_loss(student, teacher), flat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_compared_in_float32(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 9, 4).to(dtype)
    for loss in (soft_label_loss, hidden_state_loss):
        assert loss(student, teacher).dtype == torch.float32
        assert torch.equal(loss(student, teacher), loss(student.float(), teacher.float()))
        # The teacher may compute in another precision.
        assert torch.equal(loss(student.float(), teacher), loss(student.float(), teacher.float()))


def test_hidden_states_are_compared_by_their_mean_squared_difference() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = hidden_state_loss(student, teacher)
    loss.backward()
    difference = (student - teacher).detach().numpy()
    np.testing.assert_allclose(loss.item(), (difference**2).sum() / 60, rtol=1e-12)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), difference / 30, rtol=1e-12)
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="soft_label_loss: temperature="):
        soft_label_loss(torch.ones(1, 2), torch.ones(1, 2), temperature)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (2, 4)), ((2, 3), (3,)), ((4, 1), (4, 1)), ((), ())]
)
def test_logits_of_other_shapes_or_one_class_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="are not the same"):
        soft_label_loss(torch.ones(student), torch.ones(teacher))


def test_hidden_states_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"student.shape=\(2, 3\) and teacher.shape=\(2, 4\)"):
        hidden_state_loss(torch.ones(2, 3), torch.ones(2, 4))

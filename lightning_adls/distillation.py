"""How far a student is from its teacher: losses that are 0 where both agree."""

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(teacher || student)`` of softened probabilities, times the squared temperature.

    Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2: both are ``softmax(logits /
    temperature)``, and the factor keeps the size of the gradient when the temperature changes.

    Args:
        student: Logits, ``(..., classes)``, of two classes or more, floating point.
        teacher: Logits in the same shape; no gradient reaches them.
        temperature: Above 0; a high one shows the teacher's preferences among unlikely classes.

    Returns:
        The mean over all but the last dimension in nats, no dimension, float32 (float64 for a
        float64 student).

    Raises:
        ValueError: If the temperature is out of range, or the shapes differ or are of one class.

    Example:
        >>> soft_label_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 1.0]]), temperature=2.0)
        tensor(0.)
    """
    check_temperature(temperature, "soft_label_loss")
    if student.shape != teacher.shape or student.ndim == 0 or student.shape[-1] < 2:
        raise InputValueError(
            f"soft_label_loss: student.shape={tuple(student.shape)} and teacher.shape="
            f"{tuple(teacher.shape)} are not the same (..., classes) with two classes or more."
        )
    ours, theirs = (
        _log_probabilities(student, temperature),
        _log_probabilities(teacher, temperature),
    )
    theirs = theirs.detach().to(ours.dtype)
    divergence = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True)
    return divergence.sum(-1).mean() * temperature**2


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide / temperature).log_softmax(-1)


def hidden_state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of hidden states (TinyBERT, Jiao et al. 2020, section 3.1).

    Args:
        student: Floating point, any shape.
        teacher: In the same shape; no gradient reaches it.

    Returns:
        No dimension, float32 (float64 for a float64 student).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> hidden_state_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        tensor(2.)
    """
    if student.shape != teacher.shape:
        raise InputValueError(
            f"hidden_state_loss: student.shape={tuple(student.shape)} and teacher.shape="
            f"{tuple(teacher.shape)} differ."
        )
    ours = student if student.dtype == torch.float64 else student.float()
    return torch.nn.functional.mse_loss(ours, teacher.detach().to(ours.dtype))


def check_temperature(temperature: float, who: str) -> None:
    """Refuse a temperature that is not above 0 and finite; ``who`` begins the message."""
    if not 0 < temperature < float("inf"):
        raise InputValueError(f"{who}: temperature={temperature} is not a number above 0.")

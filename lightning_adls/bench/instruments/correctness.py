"""Whether a variant computes what the model computes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_adls.errors import InputValueError


def first_tensor(output: Any) -> Tensor:
    """The tensor to compare: the output itself, its ``logits``, or the first that it holds.

    Raises:
        TypeError: If there is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, str | bytes) or not hasattr(parts, "__iter__"):
        raise TypeError(f"measure: an output of type {type(output).__name__} holds no tensor.")
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise TypeError(f"measure: an output of type {type(output).__name__} holds no tensor.")


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest difference, divided by the largest magnitude of the reference.

    Relative to the whole tensor: an element near 0 has no relative error worth the name. Infinite
    where ``found`` has a NaN or an infinity that the reference has not.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
        0.125
    """
    if found.shape != reference.shape:
        raise InputValueError(
            f"relative_error: found has shape {tuple(found.shape)}, "
            f"the reference {tuple(reference.shape)}."
        )
    if not reference.numel():
        return 0.0
    expected = reference.detach().double().cpu()
    difference = (found.detach().double().cpu() - expected).abs().max().item()
    if difference == 0:
        return 0.0
    largest = expected.abs().max().item()
    error = difference / largest if largest else math.inf
    return error if math.isfinite(error) else math.inf


@dataclass(frozen=True)
class Result:
    """What a step computed, on the CPU.

    Attributes:
        output: The tensor that was compared.
        loss: Of shape (), None where nothing was trained.
        gradients: Of all parameters in one row, None where nothing was trained.
    """

    output: Tensor
    loss: Tensor | None = None
    gradients: Tensor | None = None

    def error_to(self, reference: "Result") -> float:
        """The largest of the relative errors of output, loss and gradients."""
        pairs = (
            (self.output, reference.output),
            (self.loss, reference.loss),
            (self.gradients, reference.gradients),
        )
        return max(
            relative_error(found, expected)
            for found, expected in pairs
            if found is not None and expected is not None
        )

"""What a model is called with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""One tensor, positional arguments, or arguments by name; the first dimension is the batch."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments, and those by name."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors among the arguments.

    Raises:
        ValueError: If there is none with at least one dimension, the batch.
    """
    positional, named = arguments(inputs)
    tensors = [value for value in (*positional, *named.values()) if isinstance(value, Tensor)]
    if not tensors or not tensors[0].ndim:
        raise InputValueError(
            f"measure: inputs={type(inputs).__name__} must begin with a tensor, its first "
            "dimension the batch."
        )
    return tensors


def batch_and_tokens(inputs: Inputs) -> tuple[int, int | None]:
    """Samples in the first tensor, and tokens of each.

    There are tokens in integers ``(batch, tokens)`` and in floating-point numbers ``(batch, tokens,
    features)``; None in anything else.

    Example:
        >>> batch_and_tokens(torch.zeros(8, 128, dtype=torch.int64))
        (8, 128)
    """
    first = tensors_of(inputs)[0]
    has_tokens = first.ndim == (3 if first.is_floating_point() else 2)
    return len(first), first.shape[1] if has_tokens else None


def placed(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Arguments with their tensors on ``device``, floating-point ones as ``dtype``."""

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    if isinstance(inputs, Tensor):
        moved: Tensor = place(inputs)
        return moved
    if isinstance(inputs, Mapping):
        return {name: place(value) for name, value in inputs.items()}
    return [place(value) for value in inputs]


def token_ids(batch: int, tokens: int, *, vocab_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Random ``input_ids`` and an ``attention_mask`` of ones, both ``(batch, tokens)`` of int64.

    Example:
        >>> {name: ids.shape for name, ids in token_ids(2, 5, vocab_size=30).items()}
        {'input_ids': torch.Size([2, 5]), 'attention_mask': torch.Size([2, 5])}
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab_size, (batch, tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

"""Attention as a formula and as torch's fused kernels, to be measured side by side."""

import math
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lightning_adls.errors import InputValueError

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def naive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by its formula, the whole matrix of scores in memory.

    Vaswani et al. 2017, "Attention Is All You Need", equation 1.

    Args:
        query: Shape ``(batch, heads, tokens, head_size)``, as ``key`` and ``value``.
        key: Of the same shape.
        value: Of the same shape.
        mask: bool, ``(batch, 1, tokens, tokens)``, True for keys that count, or None.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ value


def fused(
    backend: str | None, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """torch's attention by one backend and no other, or by the one that torch chooses.

    Args:
        backend: As in ``torch.nn.attention.SDPBackend``, in lower case; None leaves the choice.
        query: As for :func:`naive`, and so are the others.
        key: Of the same shape.
        value: Of the same shape.
        mask: True for keys that count, or None.

    Raises:
        ValueError: If torch knows no such backend.
        RuntimeError: If the backend cannot do it, on this device, in this data type, with a mask.
    """
    if backend is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)
    known = [name.lower() for name in SDPBackend.__members__ if name != "ERROR"]
    if backend not in known:
        raise InputValueError(
            f"fused: backend={backend!r} is unknown; torch has {', '.join(known)}."
        )
    kernel = SDPBackend.__members__[backend.upper()]
    try:
        with sdpa_kernel(kernel):
            return scaled_dot_product_attention(query, key, value, attn_mask=mask)
    except RuntimeError as error:
        reasons = _reasons_against(kernel, query, key, value, mask)
        raise RuntimeError(": ".join([str(error), *reasons])) from error


def _reasons_against(
    kernel: SDPBackend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> list[str]:
    """Why a kernel cannot be used: torch warns of that, and its error does not say it."""
    with warnings.catch_warnings(record=True) as said, sdpa_kernel(kernel), suppress(RuntimeError):
        warnings.simplefilter("always")
        scaled_dot_product_attention(query, key, value, attn_mask=mask)
    lines = [str(warning.message).partition(" (Triggered")[0] for warning in said]
    # It also names the kernels that it was not to use.
    return [line for line in lines if not line.endswith(("not used because:", "disabled."))]


def with_gradients(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """Forward and backward: the gradients of queries, keys and values."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        output = attend(leaves[0], leaves[1], leaves[2], mask)
        return torch.autograd.grad(output, leaves, torch.ones_like(output))


def padding_mask(batch: int, tokens: int) -> Tensor:
    """As BERT has it: samples of half the length and more, ``(batch, 1, tokens, tokens)``."""
    lengths = torch.linspace((tokens + 1) // 2, tokens, batch).long()
    keep = torch.arange(tokens) < lengths[:, None]
    return keep[:, None, None, :].expand(batch, 1, tokens, tokens)

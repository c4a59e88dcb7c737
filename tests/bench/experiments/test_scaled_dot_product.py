"""Attention as a formula and as torch's kernels."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adls.bench.experiments import scaled_dot_product
from lightning_adls.bench.experiments.scaled_dot_product import (
    fused,
    naive,
    padding_mask,
    with_gradients,
)


def test_the_padding_mask_leaves_keys_out_as_if_they_were_not_there() -> None:
    query, key, value = torch.randn(3, 2, 3, 8, 4).unbind()
    mask = padding_mask(2, 8)
    kept = mask[:, 0, 0].sum(1).tolist()
    assert (mask.shape, kept) == ((2, 1, 8, 8), [4, 8])
    attended = naive(query, key, value, mask)
    for n, tokens in enumerate(kept):
        alone = naive(query[n], key[n, :, :tokens], value[n, :, :tokens], None)
        assert torch.allclose(attended[n], alone, atol=1e-6)


# Those of the CPU, and torch's choice.
@pytest.mark.parametrize("backend", ["math", "flash_attention", None])
@pytest.mark.parametrize("masked", [False, True])
def test_every_attention_agrees_in_values_and_gradients(backend: str | None, masked: bool) -> None:
    query, key, value = torch.randn(3, 2, 3, 8, 4).unbind()
    mask = padding_mask(2, 8) if masked else None
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    expected = torch.autograd.grad(naive(leaves[0], leaves[1], leaves[2], mask).sum(), leaves)
    attend = partial(fused, backend)
    output = attend(query, key, value, mask)
    assert torch.allclose(output, naive(query, key, value, mask), atol=1e-5)
    found = with_gradients(attend, query, key, value, mask)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_what_a_kernel_cannot_do_is_said_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*tensors: Tensor, **named: Any) -> Tensor:  # in torch's words, on a GPU
        for line in (
            "Memory efficient kernel not used because:",
            "Memory Efficient attention has been runtime disabled.",
            "Flash attention kernel not used because:",
            "Flash Attention does not support non-null attn_mask.",
        ):
            warnings.warn(f"{line} (Triggered internally at sdp_utils.cpp:262.)", stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(scaled_dot_product, "scaled_dot_product_attention", refuse)
    query = torch.ones(1, 1, 2, 4)
    expected = "No available kernel.*: Flash Attention does not support non-null attn_mask.$"
    with (
        pytest.warns(UserWarning, match="not used because"),
        pytest.raises(RuntimeError, match=expected),
    ):
        fused("flash_attention", query, query, query, None)

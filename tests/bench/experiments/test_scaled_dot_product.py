"""Attention as a formula and as torch's kernels."""

from functools import partial

import pytest
import torch

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

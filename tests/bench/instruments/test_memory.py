"""Memory that a call needs."""

import torch
from torch import nn

from lightning_adls.bench import peak_bytes


def test_the_peak_counts_what_lives_at_the_same_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(1000, dtype=torch.uint8)

    def all_at_once() -> None:
        _kept = [torch.empty(1000, dtype=torch.uint8) for _ in range(3)]

    assert peak_bytes(one_after_the_other) == 1000
    assert peak_bytes(all_at_once) == 3000


def test_what_was_there_before_does_not_count() -> None:
    held = [torch.empty(5000, dtype=torch.uint8)]

    def replace() -> None:
        held.clear()
        held.append(torch.empty(100, dtype=torch.uint8))

    assert peak_bytes(replace) == 100


def test_naive_attention_needs_scores_that_fused_attention_does_not() -> None:
    tokens, heads, width = 256, 2, 4
    query = torch.randn(1, heads, tokens, width)
    scores = heads * tokens**2 * 4
    naive = peak_bytes(lambda: (query @ query.mT).softmax(-1) @ query)
    fused = peak_bytes(lambda: nn.functional.scaled_dot_product_attention(query, query, query))
    assert naive >= 2 * scores
    assert fused < scores


def test_activations_of_a_backward_pass_count() -> None:
    model = nn.Sequential(*[nn.Sigmoid() for _ in range(10)])
    x = torch.ones(100, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    assert peak_bytes(forward) == 2 * 400
    assert peak_bytes(lambda: model(x).sum().backward()) >= 10 * 400

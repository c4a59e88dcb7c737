"""Inputs that models are traced with."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.export import example_inputs
from lightning_adls.models import sequence_classifier

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 5,
}
NETWORKS: dict[str, tuple[dict[str, Any], int, int]] = {
    "bert": (BERT, 3, 5),
    "distilbert": ({"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}, 2, 7),
    # Takes types of tokens, but adds words for them.
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24}, 2, 7),
}


@pytest.mark.parametrize("model_type", NETWORKS)
def test_a_classifier_is_called_with_what_it_tells_by(model_type: str) -> None:
    config, count, length = NETWORKS[model_type]
    network = sequence_classifier(
        model_type=model_type, config=config, vocab_size=50, pad_token_id=3
    ).eval()
    random = torch.get_rng_state()
    found = example_inputs(TextClassifier(network))
    assert torch.equal(random, torch.get_rng_state())
    assert list(found.tensors) == ["input_ids", "attention_mask", "token_type_ids"][:count]
    assert found.named
    assert not found.args
    assert {tuple(tensor.shape) for tensor in found.kwargs.values()} == {(3, length)}
    assert all(dims == {0: "batch", 1: "length"} for dims in found.dims.values())
    ids, mask = found.tensors["input_ids"], found.tensors["attention_mask"]
    assert torch.equal(ids == 3, mask == 0)
    assert 0 < int(mask.sum()) < mask.numel()
    assert network(**found.kwargs).logits.shape == (3, 2)


def test_others_are_called_with_what_is_given() -> None:
    pair = nn.Bilinear(4, 5, 2)
    a, b = torch.randn(3, 4), torch.randn(3, 5)
    found = example_inputs(pair, (a, b))
    assert list(found.tensors) == ["input1", "input2"]
    assert all(map(torch.equal, found.args, (a, b)))
    assert found.dims == {"input1": {0: "batch"}, "input2": {0: "batch"}}
    named = example_inputs(pair, {"input2": b, "input1": a})
    assert list(named.kwargs) == ["input2", "input1"]
    assert all(map(torch.equal, named.kwargs.values(), (b, a)))
    # One row would become what is always one row.
    assert [len(x) for x in example_inputs(pair, (a[:1], b[:1])).args] == [2, 2]

"""Networks of the user's choice, made to fit a data set."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.models import NetworkFactory, bert, sequence_classifier


class Bag(nn.Module):
    """Takes nothing from the data."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.dropout = nn.Dropout()
        self.head = nn.Linear(8, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        vectors = self.dropout(self.embedding(input_ids)) * attention_mask[..., None]
        return SimpleNamespace(logits=self.head(vectors.mean(1)))


def anything(**arguments: Any) -> nn.Module:
    """Takes all keywords."""
    network = Bag(arguments["num_classes"])
    network.arguments = arguments  # type: ignore[assignment]
    return network


def test_what_the_data_set_decides_is_passed_to_what_takes_it() -> None:
    known = {"num_classes": 3, "vocab_size": 50, "pad_token_id": 1}
    plain: Any = NetworkFactory(bert, {"hidden_size": 16, "num_hidden_layers": 1})(**known)
    assert (plain.config.num_labels, plain.config.vocab_size) == (3, 50)
    assert plain.config.pad_token_id == 0, "bert() takes none"
    sizes = {"n_layers": 1, "dim": 16, "n_heads": 2, "hidden_dim": 32}
    make = NetworkFactory(sequence_classifier, {"model_type": "distilbert", "config": sizes})
    distilled: Any = make(**known)
    assert distilled.config.num_labels == 3
    assert distilled.config.pad_token_id == 1
    assert NetworkFactory(anything)(**known).arguments == known


def test_a_network_that_takes_no_classes_must_have_their_number() -> None:
    known = {"vocab_size": 50, "pad_token_id": 0}
    make = NetworkFactory(Bag, {"outputs": 3})
    network = make(num_classes=3, **known)
    assert all(module.training for module in network.modules())
    with pytest.raises(InputValueError, match=r"Bag: gives logits of shape \(1, 3\).* 2 possible"):
        make(num_classes=2, **known)


def test_what_is_to_be_chosen_must_be_taken() -> None:
    make = partial(NetworkFactory(Bag), num_classes=2)
    with pytest.raises(InputValueError, match="Bag: takes no hidden_size, which is to be chosen"):
        make(hidden_size=16)

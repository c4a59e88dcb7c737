"""Layers that were dropped are in the file, and are dropped again when it is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.export import describe, load, save
from lightning_adls.models import bert
from lightning_adls.models.description import describe_network
from lightning_adls.search.architecture_space import square_layers
from lightning_adls.transforms import Drop, Quantize

SIZES: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16}
SQUARE = square_layers(**SIZES)
BATCH = {
    "input_ids": torch.arange(2 * 5).view(2, 5),
    "attention_mask": torch.ones(2, 5, dtype=torch.long),
}


def network(dropped: list[str]) -> nn.Module:
    made = bert(vocab_size=50, max_position_embeddings=16, **SIZES)
    if dropped:
        Drop(dropped)(made)
    Quantize({"*": "MXInt(width=4)"})(made)
    return made.eval()


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dropped", [[], SQUARE[:1], SQUARE[-2:], SQUARE])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_without_some_of_its_layers_is_made_again_from_the_file_alone(
    tmp_path: Path, dropped: list[str], packed: bool, wrapped: bool
) -> None:
    saved = network(dropped)
    model = TextClassifier(saved).eval() if wrapped else saved
    save(model, tmp_path / "a.safetensors")
    loaded: Any = load(tmp_path / "a.safetensors", packed=packed)
    again: Any = loaded.model if wrapped else loaded
    assert torch.equal(again(**BATCH).logits, saved(**BATCH).logits)
    identities = [name for name, each in again.named_modules() if type(each) is nn.Identity]
    assert sorted(identities) == sorted(dropped)
    described = describe(tmp_path / "a.safetensors")["network"]
    described = described["network"] if wrapped else described
    assert sorted(described.get("identities", [])) == sorted(dropped)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("bert.pooler.dense", "identities are no list of names"),
        ([3], "identities are no list of names"),
        (["bert.cooler"], "drops the layer 'bert.cooler', which the network has not"),
        (["classifier"], "drops what is no layer to drop"),
        (["bert.encoder"], "drops what is no layer to drop"),
    ],
)
def test_a_file_that_drops_what_cannot_be_dropped_is_refused(
    tmp_path: Path, names: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lightning_adls.export.facts.describe_network",
        lambda saved: {**describe_network(saved), "identities": names},
    )
    save(network([]), tmp_path / "a.safetensors")
    with pytest.raises(InputValueError, match=said):
        load(tmp_path / "a.safetensors")

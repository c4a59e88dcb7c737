"""Packing whole models, and where their bytes are."""

import io
import pickle
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import nn
from transformers import T5Config, T5ForSequenceClassification

from lightning_adls.layers import QuantizedLinear
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.cost import costs
from lightning_adls.transforms.pack import Pack, memory
from lightning_adls.transforms.walk import linear_layers


@pytest.fixture
def model() -> nn.Module:
    return bert(vocab_size=100, hidden_size=64, max_position_embeddings=32).eval()


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return output


def tensor_bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("formats", ["MXInt(width=8)", {"weight": "MXInt(width=8)"}], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_packed_bert_gives_the_logits_of_the_quantised_one(
    model: nn.Module, formats: str | dict[str, str | None], sparsity: float
) -> None:
    Prune(sparsity, method="random")(model)
    Quantize({"*": formats})(model)
    expected = logits(model)
    Pack()(model)
    assert not linear_layers(model)
    assert torch.equal(logits(model), expected)


def test_a_model_that_reads_its_weights_is_packed() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 100,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
    }
    ends: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    ids = torch.randint(3, 99, (2, 9))
    ids[:, -1] = 1
    for dtype in (torch.float32, torch.bfloat16):  # T5 converts to the dtype of `wo.weight`
        t5 = T5ForSequenceClassification(T5Config(**sizes, **ends, num_heads=2)).eval().to(dtype)
        Quantize({"*": {"weight": "MXInt(width=8)"}})(t5)
        with torch.no_grad():
            expected = t5(input_ids=ids).logits
            Pack()(t5)
            assert torch.equal(t5(input_ids=ids).logits, expected)


def test_a_packed_model_has_the_parameters_that_it_had(model: nn.Module) -> None:
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    before = ModelSummary(Module()).total_parameters, costs(model)["parameters"]
    Pack()(model)
    after = ModelSummary(Module()).total_parameters, costs(model)["parameters"]
    assert before == after == (before[0],) * 2


def test_bytes_of_all_kinds_are_all_bytes(model: nn.Module) -> None:
    weights = sum(layer.weight.numel() for layer in linear_layers(model).values())
    before = memory(model)
    assert sum(before.values()) == tensor_bytes(model)
    assert before["linear_weights"] == 4 * weights
    assert before["packed_codes"] == before["packed_exponents"] == 0
    Pack()(model)
    after = memory(model)
    assert sum(after.values()) == tensor_bytes(model)
    assert after["linear_weights"] == 0
    assert after["packed_codes"] == weights
    assert after["packed_exponents"] == weights // 32
    for kind in ("embeddings", "norms", "biases", "other"):
        assert after[kind] == before[kind]
    embedding_rows = 100 + 32 + 2
    assert after["embeddings"] == 4 * 64 * embedding_rows
    assert after["norms"] == 4 * 64 * 2 * 5


def test_a_checkpoint_shrinks_by_what_is_counted(model: nn.Module) -> None:
    def saved(model: nn.Module) -> int:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return file.tell()

    before = saved(model), sum(memory(model).values())
    Pack()(model)
    after = saved(model), sum(memory(model).values())
    # A file has a few hundred bytes of its own for each tensor.
    assert before[0] - after[0] == pytest.approx(before[1] - after[1], rel=0.05)


def test_only_matched_layers_are_packed(mlp: nn.Sequential) -> None:
    Pack(["2", "3.*"])(mlp)
    assert type(mlp[0]) is nn.Linear
    assert isinstance(mlp[2], PackedLinear)
    assert isinstance(mlp[3], nn.Sequential)
    assert isinstance(mlp[3][0], PackedLinear)


def test_a_shared_layer_is_packed_once_and_counts_once() -> None:
    linear = nn.Linear(64, 64)
    model = nn.Sequential(linear, linear)
    assert memory(model)["linear_weights"] == 4 * 64 * 64
    Pack()(model)
    assert model[0] is model[1]
    assert memory(model)["packed_codes"] == 64 * 64


def test_a_weight_shared_with_an_embedding_counts_as_one() -> None:
    embedding, linear = nn.Embedding(10, 64), nn.Linear(64, 10, bias=False)
    linear.weight = embedding.weight
    model = nn.Sequential(embedding, linear)
    assert {k: v for k, v in memory(model).items() if v} == {"embeddings": 4 * 64 * 10}
    Pack()(model)
    assert memory(model)["embeddings"] == 4 * 64 * 10
    assert memory(model)["packed_codes"] == 64 * 10


def test_every_tensor_is_of_a_kind() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Linear(5, 2))
    Prune(0.5, layers=["2"])(model)
    assert {kind: size for kind, size in memory(model).items() if size} == {
        "linear_weights": 4 * 10,
        "norms": 4 * 16 + 8,  # with the running mean and variance, and a count in int64
        "biases": 4 * (4 + 2),
        "other": 4 * 48 + 10,  # the convolution, and a mask of one byte each
    }


def test_a_layer_that_cannot_be_packed_leaves_the_model_as_it_was(mlp: nn.Sequential) -> None:
    Quantize({"2": "Integer"})(mlp)
    with pytest.raises(ValueError, match=r"Pack: layer '2' cannot be packed. PackedLinear"):
        Pack()(mlp)
    assert type(mlp[0]) is nn.Linear
    assert type(mlp[2]) is QuantizedLinear


def test_wrong_patterns_are_refused(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"layers='\*' is not a list"):
        Pack("*")
    with pytest.raises(ValueError, match="is not a list"):
        Pack([])
    with pytest.raises(ValueError, match="Pack: pattern 'nothing' matches none of the 3"):
        Pack(["nothing"])(mlp)


def test_a_packed_model_can_be_pickled(mlp: nn.Sequential) -> None:
    Pack()(mlp)
    x = torch.randn(3, 16)
    assert torch.equal(pickle.loads(pickle.dumps(mlp))(x), mlp(x))

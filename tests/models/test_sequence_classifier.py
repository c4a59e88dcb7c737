"""Building any sequence classifier of Transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.layers.dropout import BitDropout
from lightning_adls.models import check_length, sequence_classifier
from lightning_adls.transforms.quantize import Quantize

# Each kind has words of its own for the same dimensions.
SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 24,
    },
    "roberta": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 28,
    },
    "electra": {
        "hidden_size": 16,
        "embedding_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    },
    "albert": {
        "hidden_size": 16,
        "embedding_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    },
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24},
}
PAD = 3
OF_ATTENTION = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")


def small(model_type: str, **arguments: Any) -> nn.Module:
    sizes = {**SIZES[model_type], **arguments.pop("config", {})}
    known = {"vocab_size": 50, "pad_token_id": PAD, **arguments}
    return sequence_classifier(model_type=model_type, config=sizes, **known)


@pytest.fixture(params=SIZES)
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def texts(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """Without a padding token among them."""
    ids = torch.randint(PAD + 1, 50, (rows, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_it_trains_with_a_column_of_logits_per_class(model_type: str) -> None:
    model = small(model_type, num_classes=3)
    assert all(module.training for module in model.modules())
    batch = texts(4, 9)
    logits = model(**batch).logits
    assert logits.shape == (4, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "attention" in n)


def test_attention_is_fused_where_it_can_be_and_as_it_is_asked_for(model_type: str) -> None:
    config: Any = small(model_type).config
    assert config._attn_implementation == "sdpa"
    config = small(model_type, attention="eager").config
    assert config._attn_implementation == "eager"


def test_padding_does_not_change_the_logits(model_type: str) -> None:
    model = small(model_type).eval()
    batch = texts(2, 9)
    padded = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 4), value=PAD),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 4)),
    }
    torch.testing.assert_close(model(**batch).logits, model(**padded).logits)


def test_check_length_allows_exactly_what_the_network_computes(model_type: str) -> None:
    model = small(model_type).eval()
    check_length(model, 24)
    model(**texts(1, 24))
    with pytest.raises(ValueError, match="max_length=25 is above the 24 positions"):
        check_length(model, 25)
    with pytest.raises((IndexError, RuntimeError)):
        model(**texts(1, 25))


def test_relative_positions_have_no_limit() -> None:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
    }
    model = sequence_classifier(
        model_type="deberta-v2",
        config={**sizes, "relative_attention": True, "position_biased_input": False},
        vocab_size=50,
    )
    check_length(model, 100)
    model(**texts(1, 100))
    check_length(nn.Linear(2, 2), 100)


@pytest.mark.parametrize("model_type", ["distilbert", "roberta"])
def test_every_linear_layer_can_be_quantised(model_type: str) -> None:
    model = small(model_type)
    Quantize({"*": "MXInt(width=4)"})(model)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert len(linear) == 8
    assert all("MXInt(width=4" in str(layer) for layer in linear.values())
    model(**texts(2, 9)).logits.sum().backward()
    check_length(model, 24)


def test_every_dropout_of_the_configuration_is_set(model_type: str) -> None:
    def probabilities(model: nn.Module) -> set[float]:
        return {m.p for m in model.modules() if isinstance(m, nn.Dropout)}

    assert probabilities(small(model_type, dropout=0.3)) == {0.3}
    assert probabilities(small(model_type)) != {0.3}


def test_dropout_of_the_attention_is_set_apart(model_type: str) -> None:
    def attention(config: Any) -> dict[str, float]:
        return {n: v for n, v in config.to_dict().items() if n in OF_ATTENTION}

    model: Any = small(model_type, dropout=0.3, attention_dropout=0.0)
    assert set(attention(model.config).values()) == {0.0}
    found = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert found == {0.0, 0.3}
    assert all(isinstance(m, BitDropout) for m in model.modules() if isinstance(m, nn.Dropout))
    alone: Any = small(model_type, attention_dropout=0.25)
    assert set(attention(alone.config).values()) == {0.25}
    others = {m.p for m in small(model_type).modules() if isinstance(m, nn.Dropout)}
    assert {m.p for m in alone.modules() if isinstance(m, nn.Dropout)} <= {0.25, *others}


def test_a_network_without_dropout_in_its_attention_is_refused_one() -> None:
    with pytest.raises(ValueError, match=r"attention_dropout=0\.0, but 'fnet' names no dropout of"):
        sequence_classifier(model_type="fnet", vocab_size=50, attention_dropout=0.0)


def test_a_switch_of_the_configuration_is_no_probability() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: Any = sequence_classifier(
        model_type="esm",
        config={**sizes, "intermediate_size": 32, "mask_token_id": 4},
        vocab_size=50,
        pad_token_id=1,
        dropout=0.3,
    )
    assert model.config.hidden_dropout_prob == 0.3
    assert model.config.token_dropout is False


def test_a_checkpoint_folder_is_loaded_in_train_mode_with_its_weights(
    model_type: str, tmp_path: Path
) -> None:
    model = small(model_type)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = sequence_classifier(str(tmp_path), vocab_size=50, pad_token_id=PAD, dropout=0.3)
    assert all(module.training for module in loaded.modules())
    assert {m.p for m in loaded.modules() if isinstance(m, BitDropout)} == {0.3}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_checkpoint_without_a_padding_token_takes_the_tokenizers(tmp_path: Path) -> None:
    model = small("gpt2", pad_token_id=None)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded: Any = sequence_classifier(str(tmp_path), pad_token_id=PAD)
    assert loaded.config.pad_token_id == PAD
    loaded(**texts(2, 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_type": None}, "model_type=None; without a checkpoint give one"),
        ({"model_type": "distilbrt"}, "no sequence classifier.*; similar: distilbert"),
        ({"model_type": "vit"}, "model_type='vit' is no sequence classifier"),
        (
            {"config": {"num_layers": 2}},
            "'num_layers', which 'roberta' does not know; similar: num",
        ),
        ({"config": {"vocab_size": 9}}, "config has vocab_size, which is not to be given there"),
        (
            {"config": {"hidden_size": 30, "num_attention_heads": 4}},
            "hidden_size=30 is no multiple",
        ),
        ({"config": {"num_hidden_layers": 0}}, "num_hidden_layers=0 is below 1"),
        ({"config": {"hidden_size": "wide"}}, "refused by Transformers: .*expected int"),
        ({"vocab_size": None}, "vocab_size=None"),
        ({"pad_token_id": 50}, r"pad_token_id=50 is not in 0\.\.49"),
        ({"num_classes": 1}, "num_classes=1 is below 2"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"attention_dropout": 1.0}, r"attention_dropout=1\.0"),
        ({"attention": "flash"}, "attention='flash'"),
        ({"model_type": "xlnet", "attention": "sdpa", "config": {}}, "refused by Transformers"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)^sequence_classifier: .*{message}"):
        sequence_classifier(**{"model_type": "roberta", "vocab_size": 50, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_type": "roberta"}, "fixes the network; give neither model_type nor config"),
        ({"config": {"dim": 8}}, "fixes the network; give neither model_type nor config"),
        ({"vocab_size": 51}, "vocab_size=51 of the tokenizer is above the 50"),
        ({"pad_token_id": 1}, f"pad_token_id=1 of the tokenizer is not the {PAD} of checkpoint"),
        ({"num_classes": 5}, "was trained for another number of classes than num_classes=5"),
    ],
)
def test_what_does_not_go_with_a_checkpoint_is_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    small("roberta", num_classes=3).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"^sequence_classifier: .*{message}"):
        sequence_classifier(**{"checkpoint": str(tmp_path), "num_classes": 3, **arguments})


def test_a_checkpoint_that_is_not_there_or_broken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="is no folder and could not be had from the hub"):
        sequence_classifier("nobody/has-this-model")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        sequence_classifier(str(tmp_path))
    small("distilbert").save_pretrained(tmp_path)  # type: ignore[operator]
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        sequence_classifier(str(tmp_path))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="lacks its weights"):
        sequence_classifier(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ValueError, match="is no network that Transformers knows"):
        sequence_classifier(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="model_type='vit' is no sequence classifier"):
        sequence_classifier(str(tmp_path), vocab_size=None)

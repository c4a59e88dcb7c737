"""Building BERTs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_adls.models import bert, check_length


def small(**changes: int) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, **changes}
    return bert(vocab_size=50, **sizes)  # type: ignore[arg-type]


def test_dimensions_really_change_the_model() -> None:
    one, two = small(), small(num_hidden_layers=2)
    layers = [
        sum("attention.self.query.weight" in n for n, _ in m.named_parameters()) for m in (one, two)
    ]
    assert layers == [1, 2]
    assert dict(small(intermediate_size=64).named_parameters())[
        "bert.encoder.layer.0.intermediate.dense.weight"
    ].shape == (64, 16)


def test_logits_have_one_column_per_class() -> None:
    model = bert(vocab_size=50, num_classes=5, hidden_size=16, num_hidden_layers=1)
    tokens = torch.randint(50, (3, 7))
    assert model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.shape == (3, 5)


def test_padding_does_not_change_the_logits() -> None:
    model = small().eval()
    tokens = torch.randint(50, (2, 9))
    mask = torch.ones_like(tokens)
    padded = nn.functional.pad(tokens, (0, 4))
    logits = model(input_ids=tokens, attention_mask=mask).logits
    with_padding = model(input_ids=padded, attention_mask=nn.functional.pad(mask, (0, 4))).logits
    torch.testing.assert_close(logits, with_padding)


def test_a_checkpoint_folder_is_loaded_in_train_mode_with_its_weights(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = bert(str(tmp_path), dropout=0.3)
    assert loaded.training
    assert all(module.training for module in loaded.modules())
    assert {m.p for m in loaded.modules() if isinstance(m, nn.Dropout)} == {0.3}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": None}, "vocab_size=None"),
        ({"num_classes": 1}, "num_classes=1 is below 2"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "no multiple of num_attention_heads=4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 is below 1"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"attention": "flash"}, "attention='flash'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bert(**{"vocab_size": 50, **arguments})  # type: ignore[arg-type]


def test_dimensions_beside_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fixes the dimensions; do not give hidden_size"):
        bert(str(tmp_path), hidden_size=16)


def test_a_folder_without_a_model_and_an_unknown_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        bert(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="is no folder and could not be had from the hub"):
        bert("nobody/has-this-model")


def test_another_tokenizer_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match="vocab_size=51 of the tokenizer is above the 50"):
        bert(str(tmp_path), vocab_size=51)


def test_longer_inputs_than_positions_are_refused() -> None:
    model = small(max_position_embeddings=24)
    check_length(model, 24)
    with pytest.raises(ValueError, match="max_length=25 is above the 24 positions"):
        check_length(model, 25)

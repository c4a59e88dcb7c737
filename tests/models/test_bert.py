"""Building BERTs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lightning_adls.layers.dropout import BitDropout
from lightning_adls.models import bert, check_length, reuse_weights
from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.quantize import Quantize

ATTENTION = 0.0  # by default


def small(**changes: float) -> nn.Module:
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
    loaded = bert(str(tmp_path), dropout=0.3, attention_dropout=0.2)
    assert loaded.training
    assert all(module.training for module in loaded.modules())
    assert dropouts(loaded) == (0.2, {0.3})
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def dropouts(model: nn.Module) -> tuple[float, set[float]]:
    """The probability in the attention of the one layer, and those everywhere else."""
    found = {n: m.p for n, m in model.named_modules() if isinstance(m, BitDropout)}
    return found.pop("bert.encoder.layer.0.attention.self.dropout"), set(found.values())


def test_the_attention_has_a_dropout_of_its_own() -> None:
    assert dropouts(small(dropout=0.3)) == (ATTENTION, {0.3})
    assert dropouts(small(attention_dropout=0.2)) == (0.2, {0.1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": None}, "vocab_size=None"),
        ({"num_classes": 1}, "num_classes=1 is below 2"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "no multiple of num_attention_heads=4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 is below 1"),
        ({"dropout": 1.0}, r"bert: dropout=1\.0 is not in 0 <= dropout < 1"),
        ({"attention_dropout": -0.1}, r"attention_dropout=-0\.1 is not in"),
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


def test_a_head_for_other_classes_and_missing_weights_are_refused(tmp_path: Path) -> None:
    small(num_classes=5).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match="another number of classes than num_classes=2"):
        bert(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks its weights"):
        bert(str(tmp_path))


def test_longer_inputs_than_positions_are_refused() -> None:
    model = small(max_position_embeddings=24)
    check_length(model, 24)
    with pytest.raises(ValueError, match="max_length=25 is above the 24 positions"):
        check_length(model, 25)


def shared(model: nn.Module, folder: Path) -> dict[str, bool]:
    """By parameter, whether it is the checkpoint's."""
    weights = load_file(folder / "model.safetensors")
    return {
        name: name in weights and torch.equal(weights[name], parameter)
        for name, parameter in model.named_parameters()
    }


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    model = small(num_hidden_layers=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # fresh biases and norms are all alike
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


def test_a_deeper_bert_takes_the_layers_that_a_checkpoint_has(pretrained: Path) -> None:
    model = small(num_hidden_layers=3)
    before = model.state_dict()["bert.encoder.layer.2.output.dense.weight"].clone()
    taken = reuse_weights(model, str(pretrained))
    found = shared(model, pretrained)
    own = [name for name in found if ".layer.2." in name or name.startswith("classifier.")]
    assert [name for name, same in found.items() if not same] == own
    assert taken == sum(p.numel() for n, p in model.named_parameters() if n not in own)
    assert torch.equal(model.state_dict()["bert.encoder.layer.2.output.dense.weight"], before)


def test_a_shallower_bert_of_other_inner_width_takes_what_has_the_same_shape(
    pretrained: Path,
) -> None:
    model = small(intermediate_size=64, max_position_embeddings=24)
    reuse_weights(model, str(pretrained))
    other = [name for name, same in shared(model, pretrained).items() if not same]
    assert other == [
        "bert.embeddings.position_embeddings.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.weight",
        "classifier.weight",
        "classifier.bias",
    ]


def test_nothing_is_taken_for_another_hidden_size(pretrained: Path) -> None:
    model = small(hidden_size=32, intermediate_size=64)
    assert reuse_weights(model, str(pretrained)) == 0
    assert not any(shared(model, pretrained).values())


def test_quantised_and_dropped_layers_are_no_obstacle(pretrained: Path) -> None:
    model = small()
    Drop(["bert.pooler.dense"])(model)
    Quantize({"*": "Integer"})(model)
    reuse_weights(model, str(pretrained))
    assert shared(model, pretrained)["bert.encoder.layer.0.attention.self.query.weight"]


def test_reusing_weights_draws_nothing_even_when_the_checkpoint_lacks_some(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    config: Any = small().config
    BertForMaskedLM(config).save_pretrained(tmp_path)  # it has no pooler
    model = small()
    before = model.state_dict()["bert.pooler.dense.weight"].clone()
    torch.manual_seed(5)
    for _ in range(2):  # the second time from memory
        reuse_weights(model, str(tmp_path))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(model.state_dict()["bert.pooler.dense.weight"], before)
    assert shared(model, tmp_path)["bert.embeddings.word_embeddings.weight"]


def test_weights_of_what_is_no_bert_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"reuse_weights: .*holds no config\.json"):
        reuse_weights(small(), str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"reuse_weights: .*could not be had from the hub"):
        reuse_weights(small(), "nobody/has-this-model")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="is a 'gpt2' model; give a BERT"):
        reuse_weights(small(), str(tmp_path))

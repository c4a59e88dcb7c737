"""A text is taken for what the trained model takes it for, from the exported file alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.data.tokens import load_encoder
from lightning_adls.errors import InputValueError
from lightning_adls.export import Predictor, TextFacts, save
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def data(cache_dir: str) -> TextData:
    data = TextData(max_length=16, limit_test=70, cache_dir=cache_dir)
    data.setup("test")
    return data


@pytest.fixture(scope="module")
def model(data: TextData) -> TextClassifier:
    torch.manual_seed(0)
    network = bert(
        vocab_size=data.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return TextClassifier(network, [Quantize({"*": "MXInt(width=4)"})]).eval()


@pytest.fixture
def path(model: TextClassifier, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(model, path, labels=LABELS, text=TextFacts.of(None, 16).to_dict())
    return path


@torch.no_grad()
def test_probabilities_are_those_of_the_trained_model_bit_for_bit(
    path: Path, model: TextClassifier, data: TextData
) -> None:
    expected: dict[int, list[float]] = {}
    for batch in data.predict_dataloader():
        probabilities = model.predict_step(batch, 0)["probabilities"]
        expected |= zip(batch["index"].tolist(), probabilities.tolist(), strict=True)
    numbers = sorted(expected)
    predictor = Predictor(path)
    found = predictor(data.predicted_texts(numbers), batch_size=data.eval_batch_size)
    for number, each in zip(numbers, found, strict=True):
        assert list(each.probabilities) == LABELS
        # Other rows may share its batch, whose products torch adds in another order.
        assert list(each.probabilities.values()) == pytest.approx(expected[number], abs=1e-6)
        assert each.label == LABELS[int(torch.tensor(expected[number]).argmax())]
        assert each.probability == max(each.probabilities.values())


def test_any_number_of_texts_is_taken_in_any_batches(path: Path) -> None:
    predictor = Predictor(path)
    texts = ["", "Dull.", "A very " + "long " * 99 + "story.", "The plot<br />was not [PAD] dull."]
    found = predictor(texts)
    assert [each.text for each in found] == texts
    assert [each.label for each in predictor(texts, batch_size=1)] == [x.label for x in found]
    assert predictor([]) == []
    with pytest.raises(InputValueError, match="batch_size=0 is below 1"):
        predictor(texts, batch_size=0)


def test_the_tokenizer_beside_the_file_is_taken_and_has_to_be_the_one(
    path: Path, model: TextClassifier
) -> None:
    facts = {**TextFacts.of(None, 16).to_dict(), "tokenizer": "no/where"}
    save(model, path, labels=LABELS, text=facts)
    load_encoder(None).save(path.parent / "tokenizer", 16)
    (found,) = Predictor(path)(["The plot was not dull."])
    assert found.label in LABELS
    file = path.parent / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace('"moving"', '"moving2"'))
    with pytest.raises(InputValueError, match=r"tokenizer' is another one .* than the model of"):
        Predictor(path)


def test_classes_without_names_are_known_by_their_numbers(path: Path, model: Any) -> None:
    save(model, path, text=TextFacts.of(None, 16).to_dict())
    assert set(Predictor(path)(["Dull."])[0].probabilities) == {"0", "1"}
    save(model, path, labels=["one"], text=TextFacts.of(None, 16).to_dict())
    with pytest.raises(InputValueError, match="names 1 classes and has 2"):
        Predictor(path)(["Dull."])


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"text": {"max_length": 16}},
        {"text": 3},
        {"text": {"tokenizer": "a", "hash": "b", "max_length": "16"}},
        {"text": {"tokenizer": "a", "hash": "b", "max_length": 16, "truncation": "middle"}},
    ],
)
def test_a_file_that_does_not_say_how_texts_become_tokens_is_refused(
    facts: dict[str, Any], path: Path, model: nn.Module
) -> None:
    save(model, path, **facts)
    with pytest.raises(InputValueError, match="does not say how texts become tokens"):
        Predictor(path)

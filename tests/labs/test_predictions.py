"""Predictions as a table."""

import lightning as L
import pytest
import torch

from lightning_adls.data import TextData
from lightning_adls.labs import predictions
from lightning_adls.labs.predictions import PredictionWriter, table


def test_texts_without_labels_have_no_column_of_labels(texts: TextData) -> None:
    (text,) = texts.predicted_texts([7])
    assert table({7: (None, 1, [0.25, 0.75])}, texts) == [
        {
            "row": 7,
            "text": text,
            "predicted": "positive",
            "probability_negative": 0.25,
            "probability_positive": 0.75,
        }
    ]


@pytest.mark.parametrize(
    ("batch", "labels"),
    [({}, [None, None]), ({"labels": torch.tensor([-1, 1])}, [None, 1])],
    ids=["no labels", "some labels"],
)
def test_a_missing_label_is_none(batch: dict[str, torch.Tensor], labels: list[int | None]) -> None:
    writer = PredictionWriter()
    prediction = {
        "index": torch.tensor([4, 2]),
        "class": torch.tensor([0, 1]),
        "probabilities": torch.tensor([[0.75, 0.25], [0.25, 0.75]]),
    }
    writer.write_on_batch_end(
        L.Trainer(logger=False), L.LightningModule(), prediction, None, batch, 0, 0
    )
    assert [writer._found[row][0] for row in (4, 2)] == labels


def test_the_rows_of_all_devices_are_put_in_order(
    texts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {1: (0, 0, [0.9, 0.1]), 3: (None, 1, [0.2, 0.8])}

    monkeypatch.setattr(predictions, "of_all_processes", lambda own: [own, others])
    found = predictions._of_all_devices({2: (1, 1, [0.4, 0.6]), 0: (0, 1, [0.3, 0.7])})
    rows = table(found, texts)
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["label"] for row in rows] == ["negative", "negative", "positive", None]

"""Predictions as a table."""

import pytest
import torch

from lightning_adls.data import TextData
from lightning_adls.labs import predictions
from lightning_adls.labs.predictions import table


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


def test_the_rows_of_all_devices_are_put_in_order(
    texts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {1: (0, 0, [0.9, 0.1]), 3: (None, 1, [0.2, 0.8])}

    def gather(parts: list[object], own: object) -> None:
        parts[:] = [own, others]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    found = predictions._of_all_devices({2: (1, 1, [0.4, 0.6]), 0: (0, 1, [0.3, 0.7])}, 2)
    rows = table(found, texts)
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["label"] for row in rows] == ["negative", "negative", "positive", None]

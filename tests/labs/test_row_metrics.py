"""Metrics of parts of the validation rows, against what plain torch finds for each row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from waits import Waits

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs.halves import Halves
from lightning_adls.labs.row_metrics import RowMetrics, log_probabilities
from lightning_adls.search import Budget
from lightning_adls.transforms import Quantize, Transform

BUDGET = Budget(1, accelerator="cpu")
Build = Callable[[list[Transform]], TextClassifier]


def validated(module: TextClassifier, texts: TextData, callback: RowMetrics) -> dict[str, float]:
    trainer = BUDGET.trainer(1, callbacks=[callback])
    trainer.validate(module, datamodule=texts, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def logits_by_row(module: TextClassifier, texts: TextData) -> Tensor:
    """A row at a time, in the order of the data set."""
    rows = texts.rows("val")
    module.eval()
    with torch.no_grad():
        return torch.cat([module.logits(rows[[n]]) for n in range(len(rows))])


@pytest.fixture
def quantised(build: Build) -> TextClassifier:
    torch.manual_seed(1)
    return build([Quantize({"*": "Integer(width=4, frac_width=2)"})])


def test_probabilities_stand_in_the_order_of_the_data_set(build: Build, texts: TextData) -> None:
    module = build([])
    expected = logits_by_row(module, texts).log_softmax(-1)
    torch.testing.assert_close(log_probabilities(module, texts, BUDGET), expected)


def test_each_part_has_the_means_of_its_rows(
    build: Build, quantised: TextClassifier, texts: TextData
) -> None:
    plain = build([])
    reference, halves = log_probabilities(plain, texts, BUDGET), Halves.of(texts, 0)
    parts = {"choosing": halves.choosing, "reporting": ~halves.choosing}
    found = validated(quantised, texts, RowMetrics(parts, reference))
    logits, labels = logits_by_row(quantised, texts), texts.rows("val").labels
    every = torch.ones_like(halves.choosing)
    for name, part in {**parts, "val": every}.items():
        expected = {
            "accuracy": (logits.argmax(-1) == labels)[part].double().mean(),
            "loss": torch.nn.functional.cross_entropy(logits[part], labels[part]),
            "divergence": torch.nn.functional.kl_div(
                logits.log_softmax(-1)[part],
                reference[part],
                reduction="batchmean",
                log_target=True,
            ),
            "flips": (logits.argmax(-1) != reference.argmax(-1))[part].double().mean(),
        }
        for metric, value in expected.items():
            assert found[f"{name}/{metric}"] == pytest.approx(float(value), abs=1e-6), name
    assert found["val/divergence"] > 0


def test_a_model_does_not_differ_from_itself(build: Build, texts: TextData) -> None:
    module = build([])
    found = validated(module, texts, RowMetrics({}, log_probabilities(module, texts, BUDGET)))
    assert found["val/divergence"] == pytest.approx(0, abs=1e-7)
    assert found["val/flips"] == 0
    assert found.keys() == {"val/loss", "val/accuracy", "val/divergence", "val/flips"}


def test_each_validation_of_a_fit_counts_anew(build: Build, texts: TextData) -> None:
    everything = torch.ones(len(texts.rows("val")), dtype=torch.bool)
    trainer = Budget(1, reports=3, accelerator="cpu").trainer(
        3, callbacks=[RowMetrics({"all": everything})]
    )
    trainer.fit(build([]), datamodule=texts)
    metrics = trainer.callback_metrics
    assert float(metrics["all/accuracy"]) == pytest.approx(float(metrics["val/accuracy"]))
    assert float(metrics["all/loss"]) == pytest.approx(float(metrics["val/loss"]))


def test_no_batch_is_waited_for() -> None:
    watching: Any = RowMetrics({"part": torch.tensor([True, False])}, torch.zeros(2, 3))
    watching._batches = [torch.tensor([1, 0])]
    logits = torch.randn(2, 3)
    outputs, batch = (
        {"logits": logits, "class": logits.argmax(-1)},
        {"labels": torch.tensor([0, 2])},
    )
    with Waits() as found:
        watching.on_validation_batch_end(None, None, outputs, batch, 0)
    assert not found


def test_a_row_that_is_nan_spoils_no_other_part() -> None:
    watching: Any = RowMetrics({"one": torch.tensor([True, False])})
    watching._batches = [torch.tensor([0, 1])]
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])
    outputs, batch = (
        {"logits": logits, "class": logits.argmax(-1)},
        {"labels": torch.tensor([1, 1])},
    )
    watching.on_validation_batch_end(None, None, outputs, batch, 0)
    assert watching._sums["one/loss"].isfinite().all()


def test_a_reference_is_sent_to_workers(tmp_path: Path) -> None:
    from pickle import dumps, loads

    sent = loads(dumps(RowMetrics({"one": torch.tensor([True])}, torch.zeros(1, 2))))
    assert isinstance(sent, RowMetrics)

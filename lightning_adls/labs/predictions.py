"""Predictions of a TextClassifier as a table, one line a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_adls.data import TextData
from lightning_adls.devices import of_all_processes
from lightning_adls.report import write_csv

# Row of the data -> its label or None, its class, and the probability of each class.
Predicted = dict[int, tuple[int | None, int, Sequence[float]]]


class PredictionWriter(BasePredictionWriter):
    """Write what ``trainer.predict`` finds of a :class:`TextData` to a CSV file.

    The file lies in the Trainer's ``log_dir``, and its path is printed. Its columns are ``row``,
    the number of the text in its split; ``text``, as the data have it; ``label``, unless none of
    the texts has one; ``predicted``, the name of the likeliest class; and for each class
    ``probability_<name>``, 0 to 1. Its rows are in the order of the data, of all devices together.
    Where the data name no classes, their numbers stand for them.

    Args:
        filename: Name of the file.
    """

    def __init__(self, filename: str = "predictions.csv") -> None:
        super().__init__("batch_and_epoch")
        self.filename = filename
        self._found: Predicted = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier prediction."""
        self._found = {}

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep what the file needs, not on the accelerator."""
        rows = prediction["index"].tolist()
        labels = batch["labels"].tolist() if "labels" in batch else [-1] * len(rows)
        self._found |= zip(
            rows,
            zip(
                [label if label >= 0 else None for label in labels],
                prediction["class"].tolist(),
                prediction["probabilities"].cpu().numpy(),
                strict=True,
            ),
            strict=True,
        )

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the file, on the first of several devices."""
        found = _of_all_devices(self._found)
        # `log_dir` waits for all devices.
        path = Path(trainer.log_dir or trainer.default_root_dir) / self.filename
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_csv(path, table(found, data))
            print(f"Predictions: {path}")


def table(found: Predicted, data: TextData) -> list[dict[str, Any]]:
    """The rows of the file."""
    numbers = sorted(found)
    names = data.class_names
    if not names:
        names = [str(number) for number in range(len(found[numbers[0]][2]))]
    labelled = any(found[number][0] is not None for number in numbers)
    rows = []
    for number, text in zip(numbers, data.predicted_texts(numbers), strict=True):
        label, predicted, probabilities = found[number]
        of_label = {"label": None if label is None else names[label]} if labelled else {}
        rows.append(
            {
                "row": number,
                "text": text,
                **of_label,
                "predicted": names[predicted],
                **{f"probability_{n}": p for n, p in zip(names, probabilities, strict=True)},
            }
        )
    return rows


def _of_all_devices(found: Predicted) -> Predicted:
    return {number: row for part in of_all_processes(found) for number, row in part.items()}

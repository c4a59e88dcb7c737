"""What a model said of each row of a split: for confusion matrices and for paired comparisons."""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_adls.devices import of_all_processes
from lightning_adls.report import write_csv
from lightning_adls.significance import flips


class Classified(NamedTuple):
    """A row's own class and the one that a model took it for, both from 0."""

    label: int
    predicted: int


# By the number that a row has in its split's file.
Answers = Mapping[int, Classified]
Right = Mapping[int, bool]


class Collecting(L.Callback):
    """Keeps what the last validation, or test, of a :class:`TextClassifier` said of each row.

    Args:
        path: Of the file that :meth:`write` writes.

    Attributes:
        answers: By the number of the row, in rising order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, Classified] = {}
        self._found: list[tuple[Tensor, Tensor]] = []

    def write(self) -> None:
        """Write the answers; see :func:`write`."""
        write(self.path, self.answers)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier validation."""
        self._found = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the classes of a batch."""
        # Where they are: to read them here would have a GPU wait at each batch.
        self._found.append((batch["labels"], outputs["class"]))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give each answer its row."""
        self._number(trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give each answer its row."""
        self._number(trainer.test_dataloaders)

    def _number(self, loader: Any) -> None:
        # Batches to evaluate on carry no row numbers; the loader's order is always the same.
        rows = torch.cat([loader.dataset.index[batch] for batch in loader.sampler]).tolist()
        labels, classes = (torch.cat(part).tolist() for part in zip(*self._found, strict=True))
        found = list(zip(rows, map(Classified, labels, classes), strict=True))
        self.answers = dict(sorted(row for part in of_all_processes(found) for row in part))


def write(path: Path, answers: Answers) -> None:
    """Write a CSV file with the columns ``row``, ``label`` and ``predicted``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [{"row": row, **answer._asdict()} for row, answer in answers.items()])


def right(path: Path, among: Collection[int] | None = None) -> Right | None:
    """Whether the answers of a file are right; None if there is no file.

    Args:
        path: What :func:`write` wrote.
        among: Numbers of the rows that are of interest; by default all.
    """
    if not path.is_file():
        return None
    return {
        row: answer.label == answer.predicted
        for row, answer in read(path).items()
        if among is None or row in among
    }


def flips_between(
    before: Path, after: Path, among: Collection[int] | None = None
) -> dict[str, int]:
    """Rows that two models answer differently, by what changed; nothing if a file is not there.

    Args:
        before: What :func:`write` wrote of the first model.
        after: The same of the second one, on the same rows.
        among: Numbers of the rows that are of interest; by default all.

    Returns:
        ``flips``, and those of them that are ``right_to_wrong`` and ``wrong_to_right``.
    """
    if not (before.is_file() and after.is_file()):
        return {}
    old, new = (
        {row: answer for row, answer in read(path).items() if among is None or row in among}
        for path in (before, after)
    )
    labels = [answer.label for answer in old.values()]
    found = flips(
        labels, [each.predicted for each in old.values()], [new[row].predicted for row in old]
    )
    return {
        "flips": found.changed,
        "right_to_wrong": found.right_to_wrong,
        "wrong_to_right": found.wrong_to_right,
    }


def read(path: Path) -> Answers:
    """Read what :func:`write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            int(row["row"]): Classified(int(row["label"]), int(row["predicted"]))
            for row in csv.DictReader(file)
        }

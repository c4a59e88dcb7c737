"""Metrics of a part of the validation rows, and against what another model says of each row."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_adls.budget import Budget, release
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData


class RowMetrics(L.Callback):
    """Logs metrics of a :class:`TextClassifier` that belong to rows.

    Of each part of the rows it logs ``<part>/accuracy``, 0 to 1, and ``<part>/loss``, the mean
    cross-entropy in nats. With a reference it logs of each part, and of all rows as ``val``,
    ``<part>/divergence``: the mean over the rows of the Kullback-Leibler divergence of the model's
    probabilities from those of the reference, ``sum(p_ref * log(p_ref / p))``, in nats, 0 or more;
    and ``<part>/flips``, the share of rows whose class is another. Dutta et al. 2024, "Accuracy is
    Not All You Need", arXiv:2407.09141, compare compressed models by both.

    Args:
        parts: By name, whether a row is in a part: bool, ``(rows,)``, in the order of the data set.
        reference: Logarithms of the probabilities that another model gives, such as the unquantised
            one: float32, ``(rows, classes)``; see :func:`log_probabilities`.
    """

    def __init__(self, parts: Mapping[str, Tensor], reference: Tensor | None = None) -> None:
        self._parts, self._reference = dict(parts), reference
        self._batches: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look which rows each batch will have."""
        loader: Any = trainer.val_dataloaders
        # Batches to evaluate on carry no row numbers; the loader's order is always the same.
        device = pl_module.device
        self._batches = [torch.tensor(batch, device=device) for batch in loader.sampler]
        self._parts = {name: part.to(device) for name, part in self._parts.items()}
        if self._reference is not None:
            self._reference = self._reference.to(device)
        self._sums = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up what each row of a batch comes to."""
        rows, labels = self._batches[batch_idx], batch["labels"]
        log_p = outputs["logits"].float().log_softmax(-1)
        of_rows = {
            "accuracy": (outputs["class"] == labels).float(),
            "loss": -log_p.gather(-1, labels[:, None])[:, 0],
        }
        against: dict[str, Tensor] = {}
        if self._reference is not None:
            log_q = self._reference[rows]
            against = {
                # By its last bits it may be below 0.
                "divergence": (log_q.exp() * (log_q - log_p)).sum(-1).clamp(min=0),
                "flips": (outputs["class"] != log_q.argmax(-1)).float(),
            }
            self._add("val", torch.ones_like(rows, dtype=torch.bool), against)
        for name, part in self._parts.items():
            self._add(name, part[rows], {**of_rows, **against})

    def _add(self, part: str, within: Tensor, of_rows: Mapping[str, Tensor]) -> None:
        for metric, values in of_rows.items():
            # No product with 0: of a row that is not within, NaN would stay.
            found = torch.stack([values.where(within, 0.0).sum(), within.sum()])
            name = f"{part}/{metric}"
            self._sums[name] = self._sums[name] + found if name in self._sums else found

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over the rows of all devices."""
        for name, found in self._sums.items():
            total, rows = trainer.strategy.reduce(found, reduce_op="sum")
            pl_module.log(name, total / rows, sync_dist=True)  # the same everywhere


class _Probabilities(L.Callback):
    def __init__(self) -> None:
        self.found: list[Tensor] = []
        self.rows: list[int] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.found.append(outputs["logits"].float().log_softmax(-1))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loader: Any = trainer.val_dataloaders
        self.rows = [row for batch in loader.sampler for row in batch]


def log_probabilities(module: TextClassifier, texts: TextData, budget: Budget) -> Tensor:
    """Logarithms of the probabilities that a model gives each validation row.

    Args:
        module: The model.
        texts: The data set, set up to validate on.
        budget: In whose precision, on the first of its devices.

    Returns:
        float32, ``(rows, classes)``, in the order of the data set, on the CPU.
    """
    watching = _Probabilities()
    trainer = budget.on_one_device().trainer(1, callbacks=[watching])
    trainer.validate(module, datamodule=texts, verbose=False)
    release(trainer)
    found = torch.cat(watching.found).cpu()
    ordered = torch.empty_like(found)
    ordered[torch.tensor(watching.rows)] = found
    return ordered

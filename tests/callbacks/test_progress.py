"""The share of a fit that is done, also where a module optimises by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import OneShot, Pruning, QuantizationAwareTraining, RngState
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms.cost import sparsity_of

BATCHES = 8


class Manual(L.LightningModule):
    """Optimises by itself, with the steps that it is given for each batch; notes what rounds."""

    def __init__(self, steps: Callable[[int], int], optimizers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.automatic_optimization = False
        self.steps, self.count = steps, optimizers
        self.net = nn.Linear(8, 2)
        self.rounds: list[bool] = []
        self.sparsity: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert isinstance(self.net, QuantizedLayer)
        self.rounds.append(self.net.enabled)
        self.sparsity.append(sparsity_of(self))
        optimizers: Any = self.optimizers()
        for optimizer in optimizers if self.count > 1 else [optimizers]:
            for _ in range(self.steps(batch_idx)):
                optimizer.zero_grad()
                self.manual_backward(self.net(batch[0]).square().mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=1e-3) for _ in range(self.count)]


def fit(module: Manual, ckpt_path: Path | None = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        **options,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            Pruning(OneShot(0.5, at=0.5)),
            QuantizationAwareTraining({"*": "MXInt(width=4)"}, start=0.75),
            RngState(),
        ],
    )
    data = DataLoader(TensorDataset(torch.ones(BATCHES, 8)), batch_size=1)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("steps", "optimizers", "options", "batches"),
    [
        (lambda batch: 1, 2, {"max_epochs": 2}, 16),
        (lambda batch: 3, 1, {"max_epochs": 2}, 16),
        (lambda batch: batch % 4 == 3, 1, {"max_epochs": 2}, 16),  # the module accumulates
        (lambda batch: 1, 2, {"max_steps": 16}, 8),
        (lambda batch: 1, 2, {"max_steps": 16, "max_epochs": 4}, 8),
        (lambda batch: 1, 2, {"max_steps": 100, "max_epochs": 2}, 16),
        (lambda batch: 1, 2, {"max_steps": 8, "max_epochs": 2, "limit_train_batches": 4}, 4),
    ],
)
def test_shares_are_those_of_the_fit(
    steps: Callable[[int], int], optimizers: int, options: dict[str, Any], batches: int
) -> None:
    module = Manual(steps, optimizers)
    fit(module, **options)
    assert module.rounds == [4 * batch >= 3 * batches for batch in range(batches)]
    assert module.sparsity == [0.5 * (2 * batch >= batches) for batch in range(batches)]


def test_a_resumed_fit_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "half.ckpt"
    fit(Manual(lambda batch: 1), max_epochs=2).save_checkpoint(path)
    module = Manual(lambda batch: 1)
    fit(module, ckpt_path=path, max_epochs=4)
    # From batch 16 of 32 on.
    assert module.rounds == [batch >= 24 for batch in range(16, 32)]

"""Waiting to round is the fit's matter: no checkpoint says that a model does not round."""

from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import QuantizationAwareTraining
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import Quantize

RECIPE = {"layer": "Integer(width=4)"}


class Module(L.LightningModule):
    """One linear layer, and whether it rounded in each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Linear(8, 2)
        self.rounded: list[bool] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert isinstance(self.layer, QuantizedLayer)
        self.rounded.append(self.layer.enabled)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveBeforeRounding(L.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 1:
            trainer.save_checkpoint(self.path)


def trainer(*callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_steps=4,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_model_that_waited_to_round_rounds_when_its_checkpoint_is_judged(tmp_path: Path) -> None:
    path, data = tmp_path / "early.ckpt", DataLoader(TensorDataset(torch.randn(16, 8)), 4)
    waiting = QuantizationAwareTraining(RECIPE, start=0.5)
    trainer(waiting, SaveBeforeRounding(path)).fit(Module(), data)

    judged = Module()
    trainer(QuantizationAwareTraining(RECIPE, start=0.5)).validate(
        judged, data, ckpt_path=path, verbose=False
    )
    assert judged.rounded == [True] * 4

    loaded = Module()
    Quantize(RECIPE)(loaded)
    loaded.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert isinstance(loaded.layer, QuantizedLayer)
    assert loaded.layer.enabled

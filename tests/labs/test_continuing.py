"""A continued fit takes its settings from the call."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_adls.errors import InputValueError
from lightning_adls.labs.continuing import SettingsOfThisCall, settings_of_checkpoint


class Small(L.LightningModule):
    """One layer, with or without a schedule."""

    def __init__(self, learning_rate: float, schedule: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(4, 2)
        self.learning_rate, self.schedule = learning_rate, schedule

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.learning_rate, momentum=0.9)
        if self.schedule == "none":
            return optimizer
        if self.schedule == "plateau":
            plateau = ReduceLROnPlateau(optimizer, patience=0, factor=0.5, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "loss"}
        if self.schedule == "lambda":
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5**n)]
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def fit(module: Small, folder: Path, epochs: int, *callbacks: L.Callback, **options: Any) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), 4)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, data, **options)
    trainer.save_checkpoint(folder / "it.ckpt")


@pytest.mark.parametrize(
    ("schedule", "rate"), [("none", 0.4), ("lambda", 0.1), ("exponential", 0.1), ("plateau", None)]
)
def test_the_learning_rate_of_the_call_is_as_far_along_its_schedule(
    schedule: str, rate: float | None, tmp_path: Path
) -> None:
    fit(Small(0.1, schedule), tmp_path, 1)
    path = tmp_path / "it.ckpt"
    continued = Small(0.4, schedule)
    fit(continued, tmp_path, 2, SettingsOfThisCall(), ckpt_path=path)
    (group,) = continued.trainer.optimizers[0].param_groups
    if rate is None:  # it does not keep what it began with: how far it has come is all there is
        assert group["lr"] <= 0.1
    else:
        assert group["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("schedule", ["none", "lambda", "exponential", "plateau"])
def test_with_the_same_settings_nothing_changes(schedule: str, tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [SettingsOfThisCall()]):
        fit(Small(0.1, schedule), tmp_path, 2)
        module = Small(0.1, schedule)
        fit(module, tmp_path, 4, *callbacks, ckpt_path=tmp_path / "it.ckpt")
        weights.append(module.layer.weight.detach().clone())
    assert torch.equal(*weights)


def test_the_patience_is_that_of_the_call(tmp_path: Path) -> None:
    patient: dict[str, Any] = {"monitor": "loss", "check_on_train_epoch_end": True}
    fit(Small(0.1, "none"), tmp_path, 1, EarlyStopping(**patient, patience=2))
    stopping = EarlyStopping(**patient, patience=7)
    options: dict[str, Any] = {"ckpt_path": tmp_path / "it.ckpt"}
    fit(Small(0.1, "none"), tmp_path, 2, stopping, SettingsOfThisCall(), **options)
    assert stopping.patience == 7


def test_a_checkpoint_gives_what_the_call_does_not() -> None:
    held = {"learning_rate": 0.1, "warmup": 0.3, "num_classes": 2, "other": 1, "transforms": []}
    known = ["model", "transforms", "num_classes", "learning_rate", "warmup"]
    content = {"hyper_parameters": held}
    found = settings_of_checkpoint(content, known, ["learning_rate", "transforms"])
    assert found == {"warmup": 0.3}
    assert settings_of_checkpoint({}, known, []) == {}
    held["transforms"] = ["Quantize({'*': 'Binary()'})"]
    with pytest.raises(InputValueError, match="give the same --model"):
        settings_of_checkpoint(content, known, [])

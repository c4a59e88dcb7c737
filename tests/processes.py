"""What takes processes of its own; run as a script, because one with many threads cannot fork.

Prints what it finds as JSON, for ``test_processes.py``.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adls.callbacks import (
    Calibration,
    Cubic,
    OneShot,
    Pruning,
    QuantizationAwareTraining,
    RngState,
)
from lightning_adls.errors import InputValueError

LEARNED = {"*": "LearnedInteger(width=4)"}
CALLBACKS: dict[str, Callable[[], Any]] = {
    "quantization": lambda: QuantizationAwareTraining(LEARNED),
    "pruning": lambda: Pruning(OneShot(0.5)),
    "calibration": lambda: Calibration({"*": "Integer(width=4)"}),
}
STEPS = 4  # of an epoch


class Net(L.LightningModule):
    """Any module, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net: nn.Module = nn.Sequential(
            nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 2)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def samples() -> TensorDataset:
    x = torch.randn(8 * STEPS, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long())


def loader() -> DataLoader[Any]:
    return DataLoader(samples(), batch_size=4)


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        **{"max_epochs": 1, "devices": 1, **options},
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def refused(prepared: bool, *callbacks: Any) -> str:
    module = Net()
    for callback in callbacks if prepared else ():
        callback.prepare(module)
    try:
        trainer(*callbacks, strategy="ddp_fork", devices=2).fit(module, loader(), loader())
    except InputValueError as error:
        return str(error)
    return ""


def trained(strategy: str, devices: int) -> dict[str, Any]:
    """Of a module whose layers were swapped before: what it is afterwards."""
    callbacks = [CALLBACKS["pruning"](), CALLBACKS["quantization"]()]
    module = Net()
    for callback in callbacks:
        callback.prepare(module)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    fit = trainer(*callbacks, strategy=strategy, devices=devices)
    fit.fit(module, loader(), loader())
    state = module.state_dict()
    again = trainer().validate(module, loader(), verbose=False)[0]["loss"]
    return {
        "trained": not any(torch.equal(before[key], state[key]) for key in before),
        "fitted": all(bool(state[key] > 0) for key in state if key.endswith("_fitted")),
        "kept": float(state["net.0.weight_mask"].float().mean()),
        "losses": [float(fit.callback_metrics["loss"]), again],
    }


class Dying(L.Callback):
    """Kills its process within a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Data(L.LightningDataModule):
    """Of two processes, if it shall be shared by a sampler that keeps its order."""

    def __init__(self, shared: bool, devices: int) -> None:
        super().__init__()
        self.shared, self.devices = shared, devices

    def train_dataloader(self) -> Any:
        sampler: Any = DistributedSampler(samples()) if self.shared else None
        return StatefulDataLoader(
            samples(), batch_size=8 // self.devices, sampler=sampler, shuffle=sampler is None
        )


def run(
    folder: Path,
    *others: L.Callback,
    devices: int,
    shared: bool = False,
    ckpt_path: Path | None = None,
) -> dict[str, Any]:
    """Train two epochs, or the rest of them; the weights and all that goes with them."""
    L.seed_everything(0, verbose=False)
    torch.manual_seed(0 if ckpt_path is None else 99)
    callbacks: list[Any] = [
        Pruning(Cubic(0.5)),
        QuantizationAwareTraining(LEARNED),
    ]
    module = Net()
    for callback in callbacks:
        callback.prepare(module)
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_last=True)
    strategy = "auto" if devices == 1 else "ddp_fork"
    fit = trainer(
        *callbacks, RngState(), keep, *others, max_epochs=2, strategy=strategy, devices=devices
    )
    fit.fit(module, datamodule=Data(shared, devices), ckpt_path=ckpt_path)
    return dict(module.state_dict())


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def resumed(folder: Path, shared: bool, step: int) -> bool:
    """Whether two processes repeat the uninterrupted run from this step."""
    whole = run(folder, devices=2, shared=shared)
    path = folder / f"step={step}.ckpt"
    return equal(whole, run(folder / "part", devices=2, shared=shared, ckpt_path=path))


def killed(folder: Path) -> dict[str, Any]:
    """A run whose process is killed within its second epoch, and then continued."""
    whole = run(folder / "whole", devices=1)
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(folder / "killed", Dying(STEPS + 2)), kwargs={"devices": 1}
    )
    process.start()
    process.join()
    rest = run(folder / "killed", devices=1, ckpt_path=folder / "killed" / "last.ckpt")
    return {"signal": -(process.exitcode or 0), "equal": equal(whole, rest)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        found = {
            "refused": {each: refused(False, make()) for each, make in CALLBACKS.items()},
            # The ranges are chosen in the process: the caller's module would have others.
            "calibrated there": refused(True, CALLBACKS["calibration"]()),
            "trained": {"fork": trained("ddp_fork", 2), "spawn": trained("ddp_spawn", 1)},
            "resumed": {
                "within an epoch": resumed(Path(name) / "within", shared=True, step=2),
                "at its end": resumed(Path(name) / "end", shared=False, step=STEPS),
            },
            "killed": killed(Path(name)),
        }
    print(json.dumps(found), file=sys.stdout)

"""A search with short trainings, to be killed: python driver.py STORAGE FOLDER TRIALS WORKERS."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls import search
from lightning_adls.engines import make_engine
from lightning_adls.search import Budget, FormatSpace, Listener, Objective, Search
from lightning_adls.transforms import Quantize


def note(path: Path, line: str) -> None:
    """Append a line in one write, which is on disk when this returns."""
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.fsync(descriptor)
    os.close(descriptor)


class Rows(L.LightningDataModule):
    """Sixty-four rows, of two classes."""

    def train_dataloader(self) -> DataLoader[Any]:
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(64, 8, generator=drawn)
        return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=16)

    val_dataloader = train_dataloader


class Small(L.LightningModule):
    """Two layers."""

    def __init__(self, recipe: Quantize) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        recipe(self.layers)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        # The loss, because its values differ where accuracies would be equal.
        self.log("val/accuracy", -self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Noted(Objective[Quantize]):
    """Notes which trials are judged, and by which process."""

    def __call__(self, trial: Any) -> float | tuple[float, ...]:
        note(self.folder / "judged", f"{trial.number} {os.getpid()}")
        return super().__call__(trial)


class Acknowledged(Listener):
    """Notes what is stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def trial_ended(self, search: Search[Any], trial: FrozenTrial) -> None:
        note(self.folder / "stored", f"{trial.user_attrs['index']} {trial.value!r}")
        note(self.folder / "judged", f"{trial.user_attrs['index']} stored")


def main(where: str, folder: Path, trials: int, workers: int) -> None:
    """Run the search, or what is left of it."""
    ranges = {"width": [*range(2, 9)], "frac_width": [*range(8)]}
    space = FormatSpace.from_templates(["0", "2"], {"Integer": "Integer"}, ranges)
    budget = Budget(epochs=1, reports=2, accelerator="cpu")
    objective = Noted(space, Small, Rows(), budget, folder, loggers=())
    with (
        search.open_storage(where) as storage,
        make_engine("processes", workers, use_gpus=False) as engine,
    ):
        study = search.open_study(storage, "kills", {}, optuna.pruners.NopPruner())
        sampler = optuna.samplers.RandomSampler
        Search(study, objective, sampler, trials, 0, [Acknowledged(folder)], engine).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

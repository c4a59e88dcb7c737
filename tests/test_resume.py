"""Runs resumed from any of their checkpoints repeat the uninterrupted one bit for bit."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adls import LoRA
from lightning_adls.callbacks import Cubic, Pruning, QuantizationAwareTraining, RngState
from lightning_adls.data import TextData

pytestmark = pytest.mark.conformance

STEPS = 4  # of an epoch


class Net(L.LightningModule):
    """Any module, with dropout; takes texts as well. Notes what it trains and validates on."""

    def __init__(self, asks_early: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 8)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))
        self.asks_early = asks_early
        self.seen: list[tuple[Any, ...]] = []

    def _loss(self, batch: Any, what: str) -> Tensor:
        if isinstance(batch, dict):
            x, y = self.embed(batch["input_ids"]).mean(1), batch["labels"]
        else:
            x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        if not self.trainer.sanity_checking:
            steps = self.trainer.global_step
            self.seen.append(
                (what, self.current_epoch, steps, float(x.detach().sum()), float(loss.detach()))
            )
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self._loss(batch, "validate"))

    def on_train_epoch_start(self) -> None:
        self.seen.append(("start", self.current_epoch))

    def on_train_epoch_end(self) -> None:
        self.seen.append(("end", self.current_epoch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if not self.asks_early:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Keep(L.Callback):
    """Keeps a checkpoint after every step, validation and epoch, with how much was seen by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: dict[str, int] = {}

    def _keep(self, trainer: L.Trainer, module: Any, when: str) -> None:
        if not trainer.sanity_checking:
            name = f"{when} {trainer.fit_loop.total_batch_idx}"
            trainer.save_checkpoint(self.folder / name)
            self.kept[name] = len(module.seen)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._keep(trainer, module, "step")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._keep(trainer, module, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self._keep(trainer, module, "epoch")


def tensors() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * STEPS, 8, generator=generator)
    return TensorDataset(x, (x.mean(1) > 0).long())


class Tensors(L.LightningDataModule):
    """Data of any project; its validation draws from the global generator."""

    def __init__(self, loader: Any = StatefulDataLoader, own_generator: bool = False) -> None:
        super().__init__()
        self.loader, self.own_generator = loader, own_generator

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(5) if self.own_generator else None
        return self.loader(tensors(), batch_size=4, shuffle=True, generator=generator)

    def val_dataloader(self) -> Any:
        return DataLoader(tensors(), batch_size=8)


def ours() -> list[L.Callback]:
    return [
        Pruning(Cubic(0.5), layers=("net.*",)),
        QuantizationAwareTraining({"net.*": "LearnedInteger(width=4)"}, start=0.3),
    ]


def fit(
    folder: Path,
    data: L.LightningDataModule,
    callbacks: list[L.Callback],
    ckpt_path: Path | None = None,
    asks_early: bool = False,
    adapters: bool = False,
    **options: Any,
) -> tuple[Net, Keep]:
    L.seed_everything(0 if ckpt_path is None else 99, verbose=False)
    folder.mkdir(exist_ok=True, parents=True)
    module, keep = Net(asks_early), Keep(folder)
    if adapters:
        LoRA(layers=("net.*",), rank=2, trainable=("embed.*",))(module)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, keep],
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, keep


def check(
    tmp_path: Path,
    data: L.LightningDataModule,
    make: Callable[[], list[L.Callback]],
    when: str = "",
    **how: Any,
) -> None:
    whole, keep = fit(tmp_path / "whole", data, make(), **how)
    state = whole.state_dict()
    for name, seen in keep.kept.items():
        if not name.startswith(when):
            continue
        part, _ = fit(tmp_path / "part", data, make(), tmp_path / "whole" / name, **how)
        expected = whole.seen[seen:]
        if name.startswith("epoch"):
            expected = expected[1:]  # the module hears of the epoch's end after the checkpoint
        if any(what[0] == "train" for what in expected):  # else there is nothing left to do
            assert part.seen == expected, name
        assert all(torch.equal(part.state_dict()[key], state[key]) for key in state), name


ENDS: list[dict[str, Any]] = [{"max_steps": 6}, {"max_epochs": 2}]


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("texts", {"val_check_interval": 2}),
        ("texts", {"accumulate_grad_batches": 3, "limit_val_batches": 0, "asks_early": True}),
        ("tensors", {"accumulate_grad_batches": 2, "asks_early": True, "adapters": True}),
        ("tensors", {"limit_train_batches": 3, "limit_val_batches": 0}),
    ],
)
def test_every_checkpoint_leads_to_the_end_of_the_uninterrupted_run(
    tmp_path: Path, texts: TextData, kind: str, how: dict[str, Any], end: dict[str, Any]
) -> None:
    texts.batch_size = 24
    data = texts if kind == "texts" else Tensors()
    check(tmp_path, data, lambda: [RngState(), *ours()], **how, **end)


def test_a_generator_of_the_dataloader_goes_on_as_well(tmp_path: Path) -> None:
    how: dict[str, Any] = {"max_epochs": 3, "limit_val_batches": 0}
    check(tmp_path, Tensors(own_generator=True), lambda: [RngState()], **how)
    plain = Tensors(DataLoader, own_generator=True)
    check(tmp_path / "plain", plain, lambda: [RngState()], when="epoch", **how)


ORDERS = list(permutations((*ours(), RngState())))


def test_the_order_of_the_callbacks_changes_nothing(tmp_path: Path) -> None:
    how: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0}
    first, _ = fit(tmp_path, Tensors(), list(ORDERS[0]), **how)
    for order in ORDERS[1:]:
        other, _ = fit(tmp_path, Tensors(), list(order), **how)
        assert other.seen == first.seen
        states = first.state_dict(), other.state_dict()
        assert all(torch.equal(states[1][key], value) for key, value in states[0].items())

"""Runs that are resumed draw the random numbers of an uninterrupted one."""

import random
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_adls.callbacks import RngState
from lightning_adls.data import TextData
from lightning_adls.transforms import Transform

Build = Callable[[list[Transform]], L.LightningModule]


def draws() -> list[float]:
    numpy = float(np.random.rand())  # noqa: NPY002  # the global one is what is restored
    return [random.random(), numpy, float(torch.rand(()))]


def test_a_restored_state_draws_the_same_numbers(tmp_path: Path) -> None:
    callback = RngState()
    path = tmp_path / "state.pt"
    torch.save(callback.state_dict(), path)
    expected = draws()
    draws()
    callback.load_state_dict(torch.load(path, weights_only=True))
    assert draws() == expected


class Noting(L.Callback):
    """Notes the tokens of each batch and, as dropout would, a number drawn in it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_train_batch_end(self, *arguments: object) -> None:
        batch = arguments[3]
        assert isinstance(batch, dict)
        tokens: Tensor = batch["input_ids"]
        self.seen.append((int(tokens.sum()), float(torch.rand(()))))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumed_in_the_middle_of_an_epoch_repeats_the_uninterrupted_one(
    build: Build, texts: TextData, tmp_path: Path, workers: int
) -> None:
    texts.batch_size = 16  # six steps per epoch
    texts.num_workers = workers

    def fit(max_steps: int, resume: Path | None = None) -> tuple[L.LightningModule, Noting]:
        L.seed_everything(0 if resume is None else 99, verbose=False)
        module, noting = build([]), Noting()
        assert module.model.training  # type: ignore[union-attr]  # with dropout
        trainer = L.Trainer(
            max_steps=max_steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                noting,
                RngState(),
                ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}"),
            ],
        )
        trainer.fit(module, datamodule=texts, ckpt_path=resume)
        return module, noting

    module, noting = fit(15)
    resumed, noting_resumed = fit(15, tmp_path / "step=9.ckpt")
    assert noting_resumed.seen == noting.seen[9:]
    expected = module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())

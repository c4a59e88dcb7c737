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


def test_a_restored_state_draws_the_same_numbers(
    build: Build, trainer: L.Trainer, tmp_path: Path
) -> None:
    callback = RngState()
    callback.setup(trainer, build([]), "fit")
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


def trainer_with(*callbacks: L.Callback, max_steps: int) -> L.Trainer:
    return L.Trainer(
        max_steps=max_steps,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_checkpoint_that_is_only_judged_leaves_the_generators_alone(
    build: Build, texts: TextData, tmp_path: Path, stage: str
) -> None:
    path = tmp_path / "kept.ckpt"
    fitted = trainer_with(RngState(), max_steps=1)
    fitted.fit(build([]), datamodule=texts)
    fitted.save_checkpoint(path)

    def judged_and_fitted(ckpt_path: Path | None) -> tuple[list[float], list[tuple[int, float]]]:
        """The numbers drawn after judging, and in a fit by the same Trainer."""
        L.seed_everything(7, verbose=False)
        module, noting = build([]), Noting()
        run = trainer_with(RngState(), noting, max_steps=3)
        getattr(run, stage)(module, datamodule=texts, ckpt_path=ckpt_path)
        drawn = draws()
        run.fit(module, datamodule=texts)
        return drawn, noting.seen

    assert judged_and_fitted(path) == judged_and_fitted(None)


class Failing(L.Callback):
    def on_train_start(self, *_: object) -> None:
        raise RuntimeError("planted")


def test_a_state_that_no_step_took_is_forgotten_with_its_fit(
    build: Build, texts: TextData, tmp_path: Path
) -> None:
    path, callback = tmp_path / "kept.ckpt", RngState()
    fitted = trainer_with(RngState(), max_steps=2)
    fitted.fit(build([]), datamodule=texts)
    fitted.save_checkpoint(path)

    def first_draw(callback: RngState) -> float:
        L.seed_everything(7, verbose=False)
        module, noting = build([]), Noting()
        trainer_with(callback, noting, max_steps=1).fit(module, datamodule=texts)
        return noting.seen[0][1]

    expected = first_draw(RngState())
    trainer_with(callback, max_steps=2).fit(build([]), datamodule=texts, ckpt_path=path)
    assert first_draw(callback) == expected
    with pytest.raises(RuntimeError, match="planted"):
        trainer_with(callback, Failing(), max_steps=3).fit(
            build([]), datamodule=texts, ckpt_path=path
        )
    assert first_draw(callback) == expected


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

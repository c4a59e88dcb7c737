"""A supernet of the package's own classifier: checkpoints, searches and loading."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch

from lightning_adls import load
from lightning_adls.callbacks import RngState
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.search import Budget, FormatSpace, Objective, Search, open_study
from lightning_adls.supernet import Subnetworks, SupernetTraining, draw, extract, smallest
from lightning_adls.transforms import Quantize, Transform

Build = Callable[[list[Transform]], TextClassifier]
SPACE = FormatSpace.from_templates(
    ["bert.encoder.*", "classifier"], {"": "LearnedInteger"}, {"width": [2, 4]}
)
BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")


class Keep(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(module: TextClassifier, texts: TextData, folder: Path, **arguments: Any) -> None:
    folder.mkdir()
    L.seed_everything(0, verbose=False)
    callbacks = [SupernetTraining(SPACE, part="model"), RngState(), Keep(folder)]
    trainer = BUDGET.trainer(3, callbacks=callbacks)
    trainer.fit(module, datamodule=texts, weights_only=True, **arguments)


def test_a_classifier_is_resumed_loaded_searched_and_taken_apart(
    build: Build, texts: TextData, tmp_path: Path
) -> None:
    supernet = build([])
    fit(supernet, texts, tmp_path / "whole")
    resumed = build([])
    fit(resumed, texts, tmp_path / "again", ckpt_path=str(tmp_path / "whole" / "2.ckpt"))
    state = supernet.state_dict()
    assert state.keys() == resumed.state_dict().keys()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in state.items())

    loaded = load(build([]), tmp_path / "whole" / "3.ckpt")
    batch = next(iter(texts.val_dataloader()))
    rng = random.Random(0)
    for recipe in (smallest(SPACE), draw(SPACE, rng)):
        ours, theirs = (extract(each, recipe, "model").eval() for each in (supernet, loaded))
        assert torch.equal(ours.logits(batch), theirs.logits(batch))
        quantised = build([recipe])
        quantised.load_state_dict(ours.state_dict())
        assert torch.equal(quantised.eval().logits(batch), theirs.logits(batch))

    objective: Objective[Quantize] = Objective(
        SPACE, Subnetworks(loaded, part="model"), texts, BUDGET, tmp_path / "study", train=False
    )
    study = open_study(optuna.storages.InMemoryStorage(), "s", {}, optuna.pruners.NopPruner())
    search = Search(study, objective, optuna.samplers.RandomSampler, trials=3)
    search.run()
    assert search.best is not None
    best = objective.load(search.best)
    (metrics,) = BUDGET.trainer(1).validate(best, datamodule=texts, verbose=False)
    assert metrics["val/accuracy"] == search.best.value
    assert 2 < search.best.user_attrs["bits_per_weight"] < 8

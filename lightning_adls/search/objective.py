"""Judging a choice: build, train within a budget or only evaluate, compress, and validate."""

import copy
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic

import lightning as L
import optuna
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from optuna.trial import FrozenTrial

from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.callbacks import TrialPruning, check_metrics
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.devices import StaysHere
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.loggers import log_outcome, make_loggers
from lightning_adls.search.checkpoints import offer
from lightning_adls.search.failures import trial_failing
from lightning_adls.search.judged import JudgedTrial
from lightning_adls.search.limits import Limits
from lightning_adls.search.space import ChoiceT, Space
from lightning_adls.transforms.cost import COSTS, costs


@dataclass(frozen=True)
class Objective(Generic[ChoiceT]):
    """Choose, build a module by the choice, train it, and return its validation metric.

    Every trial starts from the same seed and the same batches, so trials differ in their choice
    alone; one that repeats an earlier choice takes over its value.

    Args:
        space: What to choose from.
        build: Makes a fresh LightningModule from a choice.
        data: The validation split judges; the test split is not touched. The objective prepares
            the data and sets them up.
        budget: What a trial may spend.
        folder: Where trials keep their curves and the best one its checkpoint.
        seed: Of each trial.
        train: Whether to train what was built; if not, trials are only evaluated.
        monitor: The metric to maximise.
        compress: Changes a trained module in place: quantises it, prunes it. The metric is then
            the one after compression.
        retrain: What a trial may spend on training after compression; None for nothing. Only the
            first training is pruned.
        limits: What a model may cost; one that costs more is pruned before it is trained.
        callbacks: Each is called before each training, for a callback of its own.
        loggers: Each is called before each training, for a logger of its own, with ``save_dir``,
            ``name`` and ``version``.

    Raises:
        ValueError: If there is a budget for training after compression, but no compression, or a
            budget cannot train one model after another (:meth:`Budget.check_repeatable`).
    """

    space: Space[ChoiceT]
    build: Callable[[ChoiceT], L.LightningModule]
    data: L.LightningDataModule
    budget: Budget
    folder: Path
    seed: int = 0
    train: bool = True
    monitor: str = "val/accuracy"
    compress: Callable[[L.LightningModule], object] | None = None
    retrain: Budget | None = None
    limits: Limits | None = None
    callbacks: Sequence[Callable[[], L.Callback]] = ()
    # Lightning's own placeholder of a metric would be a row of HPARAMS beside that of the trial.
    loggers: Sequence[Callable[..., Logger]] = (
        partial(TensorBoardLogger, default_hp_metric=False),
    )

    def __post_init__(self) -> None:
        if self.retrain is not None and self.compress is None:
            raise InputValueError("Objective: retrain follows compression; give compress, too.")
        for budget in (self.budget, self.retrain):
            if budget is not None:
                budget.check_repeatable()

    def __getstate__(self) -> dict[str, Any]:
        """For workers: without the Trainer that the data were used by before."""
        data = copy.copy(self.data)
        data.trainer = None
        return {**vars(self), "data": data}

    def __call__(self, trial: JudgedTrial) -> float:
        """Judge one trial.

        Raises:
            optuna.TrialPruned: If the pruner stopped it, or its model costs too much.
            TrialFailed: If it ended in a NaN, out of memory, or in another error of torch's.
        """
        choice, steps = self.space.suggest(trial), self._steps_per_epoch
        trial.set_user_attr("choice", choice.to_dict())
        trial.set_user_attr("host", socket.gethostname())
        with trial_failing():
            L.seed_everything(self.seed, verbose=False)
            module = self.build(choice)
            _note_costs(trial, module)
            self._refuse_excess(trial, module)
            reached = self._reach(trial, module, steps)
        if trial.may_be_best(reached):
            offer(self.folder, trial.number, module)
        return reached

    @cached_property
    def _steps_per_epoch(self) -> int:
        """Training batches; the data are prepared and set up first, once."""
        self.data.prepare_data()
        self.data.setup("fit")
        return batches_of(self.data)

    def _refuse_excess(self, trial: JudgedTrial, module: L.LightningModule) -> None:
        if self.limits is None:
            return
        if reason := self.limits.exceeded(module, self.data, self.budget):
            trial.set_user_attr("over_limit", reason)
            raise optuna.TrialPruned(reason)

    def _reach(self, trial: JudgedTrial, module: L.LightningModule, steps: int) -> float:
        """Train, compress and train again, as far as each is asked for; the last metric."""
        # What an interrupted run of this trial left behind would be drawn into its curves.
        shutil.rmtree(self.folder / "trials" / _version(trial), ignore_errors=True)
        loggers = self._loggers(_version(trial))
        callbacks: list[L.Callback] = []
        if self.train:
            callbacks = [TrialPruning(trial, self.monitor), Moving(trial), *self._callbacks()]
        budget = self.budget if self.train else self.budget.on_one_device()
        trainer, failed = budget.trainer(steps, loggers, callbacks), True
        try:
            self._run(trainer, module, self.train)
            if self.compress is not None:
                before = trainer.callback_metrics[self.monitor].item()
                trial.set_user_attr("before_compression", before)
                self.compress(module)
                _note_costs(trial, module)
                release(trainer)
                trainer = self._second_trainer(trial, steps)
                self._run(trainer, module, self.retrain is not None)
            failed = False
        except optuna.TrialPruned:
            failed = False
            raise
        finally:
            # Pruned and failed trials are shown with the last value they reached.
            reached = float(trainer.callback_metrics.get(self.monitor, torch.nan))
            cost = {name: trial.user_attrs[name] for name in COSTS}
            for logger in loggers:
                log_outcome(logger, trial.params, {"value": reached, **cost}, failed=failed)
            release(trainer)
        return reached

    def _second_trainer(self, trial: JudgedTrial, steps: int) -> L.Trainer:
        if self.retrain is None:
            return self.budget.on_one_device().trainer(1)
        # A run of its own: it counts its steps from 0 again.
        loggers = self._loggers(f"{_version(trial)}/retrain")
        return self.retrain.trainer(steps, loggers, self._callbacks())

    def _callbacks(self) -> list[L.Callback]:
        return [make() for make in self.callbacks]

    def _loggers(self, version: str) -> list[Logger]:
        return make_loggers(self.loggers, self.folder, "trials", version)

    def _run(self, trainer: L.Trainer, module: L.LightningModule, train: bool) -> None:
        if train:
            trainer.fit(module, datamodule=self.data)
        else:
            trainer.validate(module, datamodule=self.data, verbose=False)
        check_metrics(trainer, self.monitor)

    def checkpoint(self, trial: FrozenTrial) -> Path:
        """Where the weights of a best trial are; ``best_trial`` is the one that has them.

        Raises:
            MissingFileError: If they are not here: another machine ran the trial, or they were
                removed.
        """
        path = self.folder / str(trial.user_attrs["checkpoint"])
        if not path.is_file():
            raise MissingFileError(
                f"Objective: {path} is not here; trial {trial.user_attrs['index'] + 1} was run on "
                f"{trial.user_attrs['host']}, where the weights are."
            )
        return path

    def load(self, trial: FrozenTrial) -> L.LightningModule:
        """The module that a best trial ended with, compressed if the objective compresses.

        Raises:
            MissingFileError: As :meth:`checkpoint`.
        """
        path = self.checkpoint(trial)
        module = self.build(self.space.read(trial.user_attrs["choice"]))
        if self.compress is not None:
            self.compress(module)  # makes places for the masks and scales of the checkpoint
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        return module


class Moving(StaysHere, L.Callback):
    """Says how much of its budget a trial has spent."""

    def __init__(self, trial: JudgedTrial) -> None:
        self._trial = trial

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Say it."""
        done, total = progress_of(trainer)
        self._trial.progress(done / total)


def _version(trial: JudgedTrial) -> str:
    """Trials count from 1 where they are shown; Optuna's numbers count from 0."""
    return f"{trial.number + 1:03d}"


def _note_costs(trial: JudgedTrial, module: L.LightningModule) -> None:
    for name, value in costs(module).items():
        trial.set_user_attr(name, round(value, 4))

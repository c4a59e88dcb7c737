"""Judging a choice: build, train within a budget or only evaluate, compress, and validate."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Generic

import lightning as L
import optuna
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from optuna.trial import TrialState

from lightning_adls.budget import Budget
from lightning_adls.callbacks import TrialPruning, check_metrics
from lightning_adls.errors import InputError
from lightning_adls.search.limits import Limits
from lightning_adls.search.space import ChoiceT, Space
from lightning_adls.transforms.cost import COSTS, costs


class TrialFailed(Exception):
    """A trial went wrong (an error, a NaN); the study goes on."""


@dataclass(frozen=True)
class Objective(Generic[ChoiceT]):
    """Choose, build a module by the choice, train it, and return its validation metric.

    Every trial starts from the same seed and the same batches, so trials differ in their choice
    alone; one that repeats an earlier choice takes over its value.

    Args:
        space: What to choose from.
        build: Makes a fresh LightningModule from a choice.
        data: The validation split judges; the test split is not touched.
        budget: What a trial may spend.
        folder: Where trials keep their TensorBoard events and the best one its checkpoint.
        seed: Of each trial.
        train: Whether to train what was built; if not, trials are only evaluated.
        monitor: The metric to maximise.
        compress: Changes a trained module in place: quantises it, prunes it. The metric is then
            the one after compression.
        retrain: What a trial may spend on training after compression; None for nothing. Only the
            first training is pruned.
        limits: What a model may cost; one that costs more is pruned before it is trained.

    Raises:
        ValueError: If there is a budget for training after compression, but no compression.
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

    def __post_init__(self) -> None:
        if self.retrain is not None and self.compress is None:
            raise InputError("Objective: retrain follows compression; give compress, too.")

    def __call__(self, trial: optuna.Trial) -> float:
        """Run one trial.

        Raises:
            optuna.TrialPruned: If the pruner stopped it, or its model costs too much.
            TrialFailed: If it ended in an error or a NaN; the reason is in its attributes.
            KeyError: If ``monitor`` is not logged, which no other trial would mend.
        """
        choice = self.space.suggest(trial)
        started = perf_counter()
        try:
            if (twin := _twin(trial)) is not None:
                return _repeat(trial, twin)
            return self._judge(trial, choice)
        except (optuna.TrialPruned, KeyError):
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise TrialFailed(str(error)) from error
        finally:
            trial.set_user_attr("seconds", round(perf_counter() - started, 2))

    def _judge(self, trial: optuna.Trial, choice: ChoiceT) -> float:
        L.seed_everything(self.seed, verbose=False)
        module = self.build(choice)
        trial.set_user_attr("recipe", choice.to_dict())
        _note_costs(trial, module)
        self._refuse_excess(trial, module)
        # What an interrupted run of this trial left behind would be drawn into its curves.
        shutil.rmtree(self.folder / "trials" / _version(trial), ignore_errors=True)
        logger = self._logger(_version(trial))
        callbacks: list[L.Callback] = [TrialPruning(trial, self.monitor)] if self.train else []
        trainer = self.budget.trainer(len(self.data.train_dataloader()), logger, callbacks)
        try:
            self._run(trainer, module, self.train)
            if self.compress is not None:
                before = trainer.callback_metrics[self.monitor].item()
                trial.set_user_attr("before_compression", before)
                self.compress(module)
                _note_costs(trial, module)
                trainer = self._second_trainer(trial)
                self._run(trainer, module, self.retrain is not None)
        finally:
            # Pruned and failed trials are shown with the last value they reached.
            reached = float(trainer.callback_metrics.get(self.monitor, torch.nan))
            cost = {name: trial.user_attrs[name] for name in COSTS}
            logger.log_hyperparams({**trial.params, **cost}, {"value": reached})
            logger.finalize("success")
        self._keep_best(trial, module, reached)
        return reached

    def _refuse_excess(self, trial: optuna.Trial, module: L.LightningModule) -> None:
        if self.limits is None:
            return
        if reason := self.limits.exceeded(module, self.data, self.budget):
            trial.set_user_attr("over_limit", reason)
            raise optuna.TrialPruned(reason)

    def _second_trainer(self, trial: optuna.Trial) -> L.Trainer:
        if self.retrain is None:
            return self.budget.trainer(1)
        # A run of its own: it counts its steps from 0 again.
        logger = self._logger(f"{_version(trial)}/retrain")
        return self.retrain.trainer(len(self.data.train_dataloader()), logger)

    def _logger(self, version: str) -> TensorBoardLogger:
        return TensorBoardLogger(self.folder, name="trials", version=version)

    def _run(self, trainer: L.Trainer, module: L.LightningModule, train: bool) -> None:
        if train:
            trainer.fit(module, datamodule=self.data)
        else:
            trainer.validate(module, datamodule=self.data, verbose=False)
        check_metrics(trainer, self.monitor)

    def load(self, trial: optuna.trial.FrozenTrial) -> L.LightningModule:
        """The module that a trial ended with, compressed if the objective compresses.

        ``best_trial`` is the one whose weights are kept.
        """
        module = self.build(self.space.read(trial.user_attrs["recipe"]))
        if self.compress is not None:
            self.compress(module)  # makes places for the masks and scales of the checkpoint
        path = self.folder / trial.user_attrs["checkpoint"]
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        return module

    def _keep_best(self, trial: optuna.Trial, module: L.LightningModule, value: float) -> None:
        earlier = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if any(other.value is not None and other.value >= value for other in earlier):
            return
        path = self.folder / f"{_version(trial)}.ckpt"
        part = path.with_suffix(".part")
        torch.save({"state_dict": module.state_dict()}, part)
        part.replace(path)
        trial.set_user_attr("checkpoint", path.name)


def _version(trial: optuna.Trial) -> str:
    return f"trial-{trial.user_attrs['index']:03d}"


def _note_costs(trial: optuna.Trial, module: L.LightningModule) -> None:
    for name, value in costs(module).items():
        trial.set_user_attr(name, round(value, 4))


def _twin(trial: optuna.Trial) -> optuna.trial.FrozenTrial | None:
    """An earlier trial of the same choices, whose result this one would repeat bit for bit."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    for other in trial.study.get_trials(deepcopy=False, states=ended):
        if other.params == trial.params:
            return other
    return None


def _repeat(trial: optuna.Trial, twin: optuna.trial.FrozenTrial) -> float:
    for name in ("recipe", *COSTS, "before_compression", "over_limit"):
        if name in twin.user_attrs:
            trial.set_user_attr(name, twin.user_attrs[name])
    trial.set_user_attr("same_as", twin.user_attrs["index"])
    if twin.state == TrialState.PRUNED:
        raise optuna.TrialPruned("repeats a pruned trial")
    assert twin.value is not None  # complete trials have one
    return twin.value

"""Judging a recipe: build, quantise, train within a budget or only evaluate, and validate."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import lightning as L
import optuna
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from optuna.trial import TrialState

from lightning_adls.callbacks import TrialPruning, check_metrics
from lightning_adls.search.space import Space
from lightning_adls.transforms import Transform
from lightning_adls.transforms.quantize import Quantize, bits_per_weight

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class TrialFailed(Exception):
    """A trial went wrong (an error, a NaN); the study goes on."""


@dataclass(frozen=True)
class Budget:
    """What each trial may spend.

    Args:
        epochs: Passes over the training data; a fraction (0.25) is a share of one pass. Rounded
            down to a multiple of ``reports`` steps, so that the last step is validated.
        reports: Validations spread evenly over the budget; the pruner is asked at each.
        precision: Of the Trainer: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        gradient_clip: Largest norm of the gradient, above 0.
        accelerator: ``auto``, ``cpu`` or ``gpu``.

    Raises:
        ValueError: If an argument is out of range.
    """

    epochs: float = 1.0
    reports: int = 4
    precision: str = "32-true"
    gradient_clip: float = 1.0
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        if not self.epochs > 0 or (self.epochs > 1 and self.epochs % 1):
            raise ValueError(
                f"Budget: epochs={self.epochs} is neither a whole number nor between 0 and 1."
            )
        if self.reports < 1:
            raise ValueError(f"Budget: reports={self.reports} is below 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Budget: precision={self.precision!r} is none of {PRECISIONS}.")
        if not self.gradient_clip > 0:
            raise ValueError(f"Budget: gradient_clip={self.gradient_clip} is not above 0.")

    def trainer(
        self,
        steps_per_epoch: int,
        logger: TensorBoardLogger | bool = False,
        callbacks: Sequence[L.Callback] = (),
        progress_bar: bool = False,
    ) -> L.Trainer:
        """A Trainer that stops after the budget and validates ``reports`` times."""
        interval = max(1, int(self.epochs * steps_per_epoch) // self.reports)
        steps = interval * min(self.reports, max(1, int(self.epochs * steps_per_epoch)))
        return L.Trainer(
            max_steps=steps,
            val_check_interval=interval,
            check_val_every_n_epoch=None,  # the interval runs on over the ends of epochs
            num_sanity_val_steps=0,
            precision=self.precision,  # type: ignore[arg-type]  # checked by the Trainer
            gradient_clip_val=self.gradient_clip,
            accelerator=self.accelerator,
            devices=1,
            logger=logger,
            log_every_n_steps=max(1, steps // 50),
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
        )


@dataclass(frozen=True)
class Objective:
    """Choose a recipe, build a module by it, train it, and return its validation metric.

    Every trial starts from the same weights, the same seed and the same batches, so trials differ
    in their recipe alone; one that repeats an earlier recipe takes over its value.

    Args:
        space: What to choose from.
        build: Makes a fresh LightningModule, changed by the transforms it is given.
        data: The validation split judges; the test split is not touched.
        budget: What a trial may spend.
        folder: Where trials keep their TensorBoard events and the best one its checkpoint.
        seed: Of each trial.
        train: Whether to train after quantising; if not, trials are only evaluated.
        monitor: The metric to maximise.
    """

    space: Space
    build: Callable[[list[Transform]], L.LightningModule]
    data: L.LightningDataModule
    budget: Budget
    folder: Path
    seed: int = 0
    train: bool = True
    monitor: str = "val/accuracy"

    def __call__(self, trial: optuna.Trial) -> float:
        """Run one trial.

        Raises:
            optuna.TrialPruned: If the pruner stopped it.
            TrialFailed: If it ended in an error or a NaN; the reason is in its attributes.
            KeyError: If ``monitor`` is not logged, which no other trial would mend.
        """
        recipe = self.space.suggest(trial)
        started = perf_counter()
        try:
            if (twin := _twin(trial)) is not None:
                return self._repeat(trial, twin)
            return self._judge(trial, recipe)
        except (optuna.TrialPruned, KeyError):
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise TrialFailed(str(error)) from error
        finally:
            trial.set_user_attr("seconds", round(perf_counter() - started, 2))

    def _repeat(self, trial: optuna.Trial, twin: optuna.trial.FrozenTrial) -> float:
        for name in ("recipe", "bits_per_weight"):
            trial.set_user_attr(name, twin.user_attrs[name])
        trial.set_user_attr("same_as", twin.user_attrs["index"])
        if twin.state == TrialState.PRUNED:
            raise optuna.TrialPruned("repeats a pruned trial")
        assert twin.value is not None  # complete trials have one
        return twin.value

    def _judge(self, trial: optuna.Trial, recipe: Quantize) -> float:
        L.seed_everything(self.seed, verbose=False)
        module = self.build([recipe])
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("bits_per_weight", round(bits_per_weight(module), 4))
        index = trial.user_attrs["index"]
        version = f"trial-{index:03d}"
        # What an interrupted run of this trial left behind would be drawn into its curves.
        shutil.rmtree(self.folder / "trials" / version, ignore_errors=True)
        logger = TensorBoardLogger(self.folder, name="trials", version=version)
        callbacks: list[L.Callback] = [TrialPruning(trial, self.monitor)] if self.train else []
        steps = len(self.data.train_dataloader())
        trainer = self.budget.trainer(steps, logger, callbacks)
        try:
            if self.train:
                trainer.fit(module, datamodule=self.data)
            else:
                trainer.validate(module, datamodule=self.data, verbose=False)
                check_metrics(trainer, self.monitor)
        finally:
            # Pruned and failed trials are shown with the last value they reached.
            reached = float(trainer.callback_metrics.get(self.monitor, torch.nan))
            bits = trial.user_attrs["bits_per_weight"]
            logger.log_hyperparams({**trial.params, "bits_per_weight": bits}, {"value": reached})
            logger.finalize("success")
        self._keep_best(trial, module, reached)
        return reached

    def load(self, trial: optuna.trial.FrozenTrial) -> L.LightningModule:
        """The module that a trial trained; ``best_trial`` is the one whose weights are kept."""
        module = self.build([Quantize(trial.user_attrs["recipe"])])
        path = self.folder / trial.user_attrs["checkpoint"]
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        return module

    def _keep_best(self, trial: optuna.Trial, module: L.LightningModule, value: float) -> None:
        earlier = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if any(other.value is not None and other.value >= value for other in earlier):
            return
        path = self.folder / f"trial-{trial.user_attrs['index']:03d}.ckpt"
        part = path.with_suffix(".part")
        torch.save({"state_dict": module.state_dict()}, part)
        part.replace(path)
        trial.set_user_attr("checkpoint", path.name)


def _twin(trial: optuna.Trial) -> optuna.trial.FrozenTrial | None:
    """An earlier trial of the same choices, whose result this one would repeat bit for bit."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    for other in trial.study.get_trials(deepcopy=False, states=ended):
        if other.params == trial.params:
            return other
    return None

"""Judging a choice: build, train within a budget or only evaluate, compress, and validate."""

import copy
import random
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, cast

import lightning as L
import optuna
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.callbacks import TrialPruning, check_metrics
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.devices import StaysHere
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.loggers import log_outcome, make_loggers
from lightning_adls.search.base_objective import BaseObjective
from lightning_adls.search.checkpoints import offer
from lightning_adls.search.failures import trial_failing
from lightning_adls.search.format_space import FormatSpace
from lightning_adls.search.judged import JudgedTrial, Outcome
from lightning_adls.search.limits import BUDGETS, Foresight, Limits
from lightning_adls.search.modes import DIRECTIONS, Mode
from lightning_adls.search.outcomes import EXCESS, METRICS, METRICS_BEFORE, OVER_LIMIT
from lightning_adls.search.shrinking import shrunk
from lightning_adls.search.space import ChoiceT, Space
from lightning_adls.transforms.bit_operations import bit_operations, macs_of
from lightning_adls.transforms.cost import COSTS, costs
from lightning_adls.transforms.quantize import Quantize


@dataclass(frozen=True)
class Objective(BaseObjective[ChoiceT]):
    """Choose, build a module by the choice, train it, and return its validation metric.

    Every trial starts from the same seed and the same batches, so trials differ in their choice
    alone; one that repeats an earlier choice takes over its value.

    Args:
        space: What to choose from.
        build: Makes a fresh LightningModule from a choice.
        data: Any LightningDataModule. The validation split judges; the test split is not touched.
            The objective prepares the data and sets them up, once in each process.
        budget: What a trial may spend.
        folder: Where trials keep their curves and the best one its checkpoint.
        seed: Of each trial.
        train: Whether to train what was built; if not, trials are only evaluated.
        monitor: The metric that trials are compared by.
        mode: Whether it is to be as high as possible (``max``) or as low (``min``).
        compress: Changes a trained module in place: quantises it, prunes it. The metric is then
            the one after compression.
        retrain: What a trial may spend on training after compression; None for nothing. Only the
            first training is pruned.
        limits: What a model may cost; one that costs more is pruned before it is trained. Storage
            and arithmetic are those after compression, of a copy that is compressed untrained.
        foresee: Knows the costs of a choice, so that none that costs too much gets to a worker, and
            limits that no choice is within are refused before any work.
        repair: Whether a recipe that is foreseen to cost too much is tried with formats of fewer
            bits instead (:mod:`lightning_adls.search.shrinking`): then every trial is of use, also
            under a budget that few recipes are within.
        minimise: Costs that are further objectives beside the metric, in their order: some of
            ``parameters``, ``bits_per_weight``, ``size_mb`` and ``bit_operations``. For the last,
            here or in ``limits``, a module needs Lightning's ``example_input_array``: one sample.
        metrics: Each is called before each training and each evaluation, for a callback that logs
            metrics of a validation.
        callbacks: Each is called before each training, for a callback of its own.
        loggers: Each is called before each training, for a logger of its own, with ``save_dir``,
            ``name`` and ``version``.

    Raises:
        ValueError: If ``mode`` is neither ``max`` nor ``min``, ``minimise`` names no cost, or one
            twice, there is no recipe to repair, there is a budget for training after compression,
            but no compression, or a budget cannot train one model after another
            (:meth:`Budget.check_repeatable`).
    """

    space: Space[ChoiceT]
    build: Callable[[ChoiceT], L.LightningModule]
    data: L.LightningDataModule
    budget: Budget
    folder: Path
    seed: int = 0
    train: bool = True
    monitor: str = "val/accuracy"
    mode: Mode = "max"
    compress: Callable[[L.LightningModule], object] | None = None
    retrain: Budget | None = None
    limits: Limits | None = None
    foresee: Foresight[ChoiceT] | None = None
    repair: bool = False
    minimise: Sequence[str] = ()
    metrics: Sequence[Callable[[], L.Callback]] = ()
    callbacks: Sequence[Callable[[], L.Callback]] = ()
    # Lightning's own placeholder of a metric would be a row of HPARAMS beside that of the trial.
    loggers: Sequence[Callable[..., Logger]] = (
        partial(TensorBoardLogger, default_hp_metric=False),
    )

    def __post_init__(self) -> None:
        if self.mode not in DIRECTIONS:
            raise InputValueError(f"Objective: mode={self.mode!r} is neither 'max' nor 'min'.")
        if self.retrain is not None and self.compress is None:
            raise InputValueError("Objective: retrain follows compression; give compress, too.")
        if set(self.minimise) - set(BUDGETS) or len(set(self.minimise)) < len(self.minimise):
            raise InputValueError(
                f"Objective: minimise={list(self.minimise)} is no list of different costs; there "
                f"are {', '.join(BUDGETS)}."
            )
        if self.repair and not isinstance(cast(Any, self.space), FormatSpace):
            raise InputValueError("Objective: repair=True is for recipes; give a FormatSpace.")
        for budget in (self.budget, self.retrain):
            if budget is not None:
                budget.check_repeatable()

    def __getstate__(self) -> dict[str, Any]:
        """For workers: without the Trainer that the data were used by before.

        What foresees costs is the driver's, and as large as a network. That the data are prepared
        is not told: a worker may be on another machine.
        """
        data = copy.copy(self.data)
        data.trainer = None
        state = {**vars(self), "data": data, "foresee": None}
        state.pop("_prepared", None)
        return state

    def prepare_data(self) -> None:
        """Prepare the data, unless it was done: by one process, before workers do it at once."""
        _ = self._prepared

    def check_limits(self) -> None:
        """Refuse limits that no choice of the space is within, as far as costs can be foreseen.

        Raises:
            InputValueError: If so.
        """
        if self.limits is not None and self.foresee is not None:
            self.limits.check_reachable(self.foresee.least(self.space))

    def shrunk(self, choice: ChoiceT, rng: random.Random) -> Mapping[str, Any] | None:
        """The parameters of what is tried in the place of a choice that costs too much.

        None if the choice may be tried, nothing is repaired, costs are not foreseen or no smaller
        recipe is within the limits.
        """
        limits, foresee, space = self.limits, cast(Any, self.foresee), cast(Any, self.space)
        if not self.repair or limits is None or foresee is None:
            return None

        def fits(recipe: Quantize) -> bool:
            return limits.reason(foresee(recipe)) is None

        recipe = cast(Quantize, choice)  # which it is in such a space
        if fits(recipe):
            return None
        roles = ("weight", "input") if limits.bit_operations is not None else ("weight",)
        smaller = shrunk(space, recipe, fits, rng, roles)
        return None if smaller is None else space.params_of(smaller)

    def refused(self, choice: ChoiceT) -> Outcome | None:
        """What becomes of a trial whose choice is known to cost too much; None if it may be tried.

        Nothing is built.
        """
        if self.limits is None or self.foresee is None:
            return None
        known = self.foresee(choice)
        if (reason := self.limits.reason(known)) is None:
            return None
        noted = {
            "choice": choice.to_dict(),
            **_rounded(known),
            OVER_LIMIT: reason,
            EXCESS: self.limits.excess(known),
            "seconds": 0.0,
        }
        return Outcome(TrialState.PRUNED, None, noted)

    def __call__(self, trial: JudgedTrial) -> float | tuple[float, ...]:
        """Judge one trial.

        Returns:
            The metric; with the costs that are minimised, if there are any.

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
            known = self._costs(module)
            _note(trial, known)
            self._refuse_excess(trial, module, known)
            reached = self._reach(trial, module, steps)
            ended = self._costs(module) if self.minimise else {}
        values = (reached, *(float(ended[name]) for name in self.minimise))
        if trial.may_be_best(*values, mode=self.mode):
            offer(self.folder, trial.number, module)
        return values if self.minimise else reached

    @cached_property
    def _steps_per_epoch(self) -> int:
        """Training batches; the data are prepared and set up first."""
        self.prepare_data()
        self.data.setup("fit")
        return batches_of(self.data)

    @cached_property
    def _prepared(self) -> bool:
        self.data.prepare_data()
        return True

    def _costs(self, module: L.LightningModule) -> dict[str, float]:
        """By name; arithmetic only where it is limited or minimised, because it runs the module."""
        found = costs(module)
        limited = self.limits is not None and self.limits.bit_operations is not None
        if limited or "bit_operations" in self.minimise:
            found["bit_operations"] = _bit_operations(module)
        return found

    def _refuse_excess(
        self, trial: JudgedTrial, module: L.LightningModule, known: dict[str, float]
    ) -> None:
        if self.limits is None:
            return
        if self.compress is not None and self.limits.of_storage_or_arithmetic:
            with isolate_rng():
                compressed = copy.deepcopy(module)
                self.compress(compressed)
            # It is trained with all its parameters.
            known = {**self._costs(compressed), "parameters": known["parameters"]}
            _note(trial, known)
        if excess := self.limits.excess(known):
            trial.set_user_attr(EXCESS, excess)
        if reason := self.limits.exceeded(module, self.data, self.budget, known):
            trial.set_user_attr(OVER_LIMIT, reason)
            raise optuna.TrialPruned(reason)

    def _reach(self, trial: JudgedTrial, module: L.LightningModule, steps: int) -> float:
        """Train, compress and train again, as far as each is asked for; the last metric."""
        # What an interrupted run of this trial left behind would be drawn into its curves.
        shutil.rmtree(self.folder / "trials" / _version(trial), ignore_errors=True)
        loggers = self._loggers(_version(trial))
        callbacks = self._metrics()
        if self.train:
            callbacks += [TrialPruning(trial, self.monitor), Moving(trial), *self._callbacks()]
        budget = self.budget if self.train else self.budget.on_one_device()
        trainer, failed = budget.trainer(steps, loggers, callbacks), True
        try:
            self._run(trainer, module, self.train)
            if self.compress is not None:
                before = trainer.callback_metrics[self.monitor].item()
                trial.set_user_attr("before_compression", before)
                trial.set_user_attr(METRICS_BEFORE, _metrics_of(trainer))
                self.compress(module)
                _note(trial, self._costs(module))
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
            trial.set_user_attr(METRICS, _metrics_of(trainer))
            names = (*COSTS, "bit_operations")
            cost = {name: trial.user_attrs[name] for name in names if name in trial.user_attrs}
            for logger in loggers:
                log_outcome(logger, trial.params, {"value": reached, **cost}, failed=failed)
            release(trainer)
        return reached

    def _second_trainer(self, trial: JudgedTrial, steps: int) -> L.Trainer:
        if self.retrain is None:
            return self.budget.on_one_device().trainer(1, callbacks=self._metrics())
        # A run of its own: it counts its steps from 0 again.
        loggers = self._loggers(f"{_version(trial)}/retrain")
        return self.retrain.trainer(steps, loggers, [*self._metrics(), *self._callbacks()])

    def _metrics(self) -> list[L.Callback]:
        return [make() for make in self.metrics]

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


def _metrics_of(trainer: L.Trainer) -> dict[str, float]:
    """What was logged last, but for what is no number: JSON has none for it."""
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: float(f"{value:.6g}") for name, value in logged.items() if isfinite(value)}


def _note(trial: JudgedTrial, known: Mapping[str, float]) -> None:
    for name, value in _rounded(known).items():
        trial.set_user_attr(name, value)


def _rounded(known: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in known.items()}


def _bit_operations(module: L.LightningModule) -> int:
    example: Any = move_data_to_device(module.example_input_array, module.device)
    if example is None:
        raise InputValueError(
            f"Objective: {type(module).__name__}.example_input_array is not set, so that "
            "bit_operations cannot be counted; let build set it to one sample."
        )
    if isinstance(example, Mapping):
        return bit_operations(module, macs_of(module, **example))
    inputs = example if isinstance(example, tuple) else (example,)
    return bit_operations(module, macs_of(module, *inputs))

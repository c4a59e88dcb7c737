"""Stopping weak trials of an Optuna study."""

from types import SimpleNamespace

import lightning as L
import optuna
from optuna.trial import BaseTrial
from optuna_integration import PyTorchLightningPruningCallback

from lightning_adls.callbacks.launched import hands_back_weights_alone
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.devices import StaysHere
from lightning_adls.errors import InputValueError


class _Following(L.Callback):
    """In the other processes of a trial: stops where the first one does, which knows the trial."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            _stop_together(trainer, None)


class TrialPruning(StaysHere, PyTorchLightningPruningCallback):
    """Stop a weak trial within its budget, also when the budget is a single epoch.

    Optuna's own callback reports by epoch, and ignores every report but the first of an epoch.
    This one reports at each validation (set the Trainer's ``val_check_interval``) by the share of
    the budget that is spent, in percent, which also is the unit of a pruner's
    ``n_warmup_steps``. On several devices the first process alone reports and asks, and all of them
    stop. Where the Trainer launches all of its processes itself (``ddp_spawn``, ``ddp_fork``,
    ``ddp_notebook``) it needs RDB storage, and ``check_pruned()`` after ``fit()``.

    Args:
        trial: The trial that ``fit`` belongs to.
        monitor: A metric that every validation logs.
        parts: How many parts the budget is counted in: 100 are percent. More validations than
            these need more, with which the pruner's ``n_warmup_steps`` counts as well.

    Raises:
        optuna.TrialPruned: Out of ``fit``, when the study's pruner says so.
        InputValueError: At the second validation within one part of the budget.
        KeyError: At the first validation, if ``monitor`` is not among its metrics.
        FloatingPointError: If a metric is NaN.
    """

    elsewhere = _Following

    def __init__(self, trial: BaseTrial, monitor: str, parts: int = 100) -> None:
        super().__init__(trial, monitor)
        self._parts = parts
        self._reported: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether this process is one whose trial the main process does not see."""
        if hands_back_weights_alone(trainer):
            super().on_fit_start(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric and ask the pruner."""
        if trainer.sanity_checking:
            return
        check_metrics(trainer, self.monitor)
        if self.is_ddp_backend:
            # All that the parent takes from the module is its epoch, which becomes the step.
            place = SimpleNamespace(current_epoch=self._part(trainer))
            super().on_validation_end(trainer, place)
        elif trainer.is_global_zero:
            _stop_together(trainer, self._ask(trainer))
        else:
            _stop_together(trainer, None)

    def _part(self, trainer: L.Trainer) -> int:
        """How many parts of the budget are spent; not the same for two validations."""
        done, total = progress_of(trainer)
        part = round(self._parts * done / total)
        if part == self._reported:
            raise InputValueError(
                f"TrialPruning: parts={self._parts} are too few for two validations after {part} "
                "of them, of which Optuna would ignore one; validate less often, or give more."
            )
        self._reported = part
        return part

    def _ask(self, trainer: L.Trainer) -> float | None:
        """Report the metric; the percent of the budget that are spent, if the trial shall stop."""
        part = self._part(trainer)
        self._trial.report(trainer.callback_metrics[self.monitor].item(), step=part)
        # At the end nothing is left to save by stopping: the trial is complete, however weak.
        stops = part < self._parts and self._trial.should_prune()
        return 100 * part / self._parts if stops else None


def _stop_together(trainer: L.Trainer, percent: float | None) -> None:
    """Stop in all processes, if the first one says after how much of the budget."""
    percent = trainer.strategy.broadcast(percent)
    if percent is not None:
        raise optuna.TrialPruned(f"pruned at {percent:.0f} % of its budget")


def check_metrics(trainer: L.Trainer, monitor: str) -> None:
    """Refuse metrics that cannot be compared.

    Raises:
        KeyError: If ``monitor`` was not logged.
        FloatingPointError: If a logged metric is NaN.
    """
    metrics = trainer.callback_metrics
    if monitor not in metrics:
        logged = ", ".join(sorted(metrics))
        raise KeyError(f"TrialPruning: monitor={monitor!r} is not logged; logged are {logged}.")
    for name, value in metrics.items():
        if value.isnan().any():
            raise FloatingPointError(f"{name} is NaN after {trainer.global_step} steps")

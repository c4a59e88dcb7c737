"""Stopping weak trials of an Optuna study."""

from types import SimpleNamespace

import lightning as L
import optuna
from optuna.trial import BaseTrial
from optuna_integration import PyTorchLightningPruningCallback

from lightning_adls.callbacks.progress import progress_of
from lightning_adls.errors import InputValueError


class TrialPruning(PyTorchLightningPruningCallback):
    """Stop a weak trial within its budget, also when the budget is a single epoch.

    Optuna's own callback reports by epoch, and ignores every report but the first of an epoch.
    This one reports at each validation (set the Trainer's ``val_check_interval``) by the share of
    the budget that is spent, in percent, which also is the unit of a pruner's
    ``n_warmup_steps``. Under DDP it needs RDB storage, and ``check_pruned()`` after ``fit()``.

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

    def __init__(self, trial: BaseTrial, monitor: str, parts: int = 100) -> None:
        super().__init__(trial, monitor)
        self._parts = parts
        self._reported: int | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric and ask the pruner."""
        if trainer.sanity_checking:
            return
        check_metrics(trainer, self.monitor)
        done, total = progress_of(trainer)
        part = round(self._parts * done / total)
        if part == self._reported:
            raise InputValueError(
                f"TrialPruning: parts={self._parts} are too few for two validations after {part} "
                "of them, of which Optuna would ignore one; validate less often, or give more."
            )
        self._reported = part
        if part >= self._parts and not self.is_ddp_backend:
            # Nothing is left to save by stopping: the trial is complete, however weak.
            self._trial.report(trainer.callback_metrics[self.monitor].item(), step=part)
            return
        try:
            # All that the parent takes from the module is its epoch, which becomes the step.
            super().on_validation_end(trainer, SimpleNamespace(current_epoch=part))
        except optuna.TrialPruned as error:
            percent = 100 * part / self._parts
            raise optuna.TrialPruned(f"pruned at {percent:.0f} % of its budget") from error


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

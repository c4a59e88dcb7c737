"""Comparing no scores while a fit does not train the model yet that it delivers."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

_logger = logging.getLogger(__name__)
_Comparing = EarlyStopping | ModelCheckpoint


class DeliversLater(L.Callback):
    """A callback that makes another model, within a fit, of the one that is trained at first.

    Scores of the two do not compare. Until it is done, each ``ModelCheckpoint`` with a ``monitor``
    saves as ever, but its files count as if they had the worst score: none of them is the best,
    and each is replaced by what is saved next. ``EarlyStopping`` has nothing to wait for. Both then
    start with the first value of their metric that is logged of the finished model. Nothing but
    their scores is changed, so that nothing has to be given back, and two callbacks of this kind do
    not disturb each other.

    Args:
        later: Whether the model is another one at first.
    """

    # What makes it the delivered one; ends a sentence that begins with "until".
    done_when: ClassVar[str]

    def __init__(self, later: bool) -> None:
        self._later = later
        self._unfinished = False
        # Monitored metrics whose last value is of the unfinished model.
        self._outdated: dict[str, Tensor] = {}

    def _note(self, trainer: L.Trainer, unfinished: bool) -> None:
        """Say when training starts, and at each batch, whether the model is yet to change."""
        others = _comparing(trainer)
        if others and unfinished != self._unfinished and trainer.is_global_zero:
            who = type(self).__name__
            names = " and ".join(dict.fromkeys(type(other).__name__ for other in others))
            if unfinished:
                _logger.info("%s: %s: no scores compared until %s.", who, names, self.done_when)
            else:
                steps = trainer.global_step
                _logger.info("%s: %s: scores compared from now, step %d.", who, names, steps)
        if self._unfinished and not unfinished:
            self._start_over(trainer)  # what was compared since the last batch
            values = trainer.callback_metrics
            monitored = {str(other.monitor) for other in others}
            self._outdated = {name: values[name] for name in monitored & values.keys()}
        self._unfinished = unfinished
        self._start_over(trainer)

    def _forget_earlier(self, trainer: L.Trainer) -> None:
        """Let the scores be forgotten that were reached before this fit, by another model."""
        for other in _comparing(trainer):
            if isinstance(other, ModelCheckpoint):
                # Their files are none of this fit's, which does not remove them. Forgotten scores
                # are of an earlier part of this run, which broke off.
                _drop(other, [file for file in other.best_k_models if not _forgotten(other, file)])
            _forget_scores(other)

    def _start_over(self, trainer: L.Trainer) -> list[_Comparing]:
        """Let all that know a score of the unfinished model forget it; returns them."""
        if not self._unfinished and self._outdated:
            values = trainer.callback_metrics
            # Lightning keeps the tensor of a metric until that is logged again.
            old = self._outdated.items()
            self._outdated = {name: value for name, value in old if values.get(name) is value}
        held = [
            other
            for other in _comparing(trainer)
            if self._unfinished or other.monitor in self._outdated
        ]
        for other in held:
            _forget_scores(other)
        return held

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the file that is written not be the best one, and not say so to who resumes it."""
        for other in self._start_over(trainer):
            checkpoint["callbacks"][other.state_key] = other.state_dict()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave no unfinished model among the best, of an earlier part of the run neither."""
        if not self._later:
            return
        self._start_over(trainer)
        for other in _comparing(trainer):
            if not isinstance(other, ModelCheckpoint):
                continue
            forgotten = [file for file in other.best_k_models if _forgotten(other, file)]
            _drop(other, forgotten)
            if forgotten and not other.best_k_models and not self._unfinished:
                rank_zero_warn(
                    f"{type(self).__name__}: ModelCheckpoint has no best model, because it saved "
                    f"none with a {other.monitor!r} that was logged after {self.done_when}; "
                    "validate and save after that."
                )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget the fit."""
        self._unfinished, self._outdated = False, {}

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave everything as ``teardown`` does, of a fit that does not get there."""
        if self._unfinished:
            self._start_over(trainer)
        self.teardown(trainer, pl_module, "fit")


def _comparing(trainer: L.Trainer) -> list[_Comparing]:
    """Callbacks that compare the scores of different steps."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [other for other in callbacks if isinstance(other, EarlyStopping | ModelCheckpoint)]
    return [other for other in found if other.monitor is not None]


def _worst(other: _Comparing) -> Tensor:
    return torch.tensor(torch.inf if other.mode == "min" else -torch.inf)


def _forget_scores(other: _Comparing) -> None:
    if isinstance(other, EarlyStopping):
        other.wait_count, other.best_score = 0, _worst(other)
        return
    if other.save_top_k == -1:
        _drop(other, list(other.best_k_models))  # all files stay: there is nothing to replace
    # The others stay until there are new ones: a run that breaks off is resumed from them.
    other.best_k_models = dict.fromkeys(other.best_k_models, _worst(other))
    other.kth_best_model_path = next(iter(other.best_k_models), "")
    other.kth_value = _worst(other)
    other.best_model_path, other.best_model_score = "", None


def _forgotten(checkpoint: ModelCheckpoint, file: str) -> bool:
    return bool(checkpoint.best_k_models[file].cpu() == _worst(checkpoint))


def _drop(checkpoint: ModelCheckpoint, files: Sequence[str]) -> None:
    """Take files out of the best ones, so that no other takes their place."""
    if files:
        kept = {file: s for file, s in checkpoint.best_k_models.items() if file not in files}
        checkpoint.best_k_models = kept
        checkpoint.kth_best_model_path, checkpoint.kth_value = "", _worst(checkpoint)
    if checkpoint.best_model_path in files:
        checkpoint.best_model_path, checkpoint.best_model_score = "", None

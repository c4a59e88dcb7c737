"""What a training may spend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.loggers import Logger

from lightning_adls.errors import InputValueError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
AUTO = "auto"


def fast_precision(accelerator: str) -> str:
    """The precision that a training is fast in: ``bf16-mixed`` on a GPU that has it.

    Args:
        accelerator: Of a Trainer. On a CPU it is always ``32-true``.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


@dataclass(frozen=True)
class Budget:
    """What a training, such as a trial of a search, may spend.

    Args:
        epochs: Passes over the training data; a fraction (0.25) is a share of one pass, rounded
            down to whole steps, but at least one.
        reports: Validations, see :class:`Reports`; the pruner is asked at each.
        precision: Of the Trainer: ``32-true``, ``bf16-mixed`` or ``16-mixed``; or ``auto``, which
            is ``bf16-mixed`` on a CUDA device that has it and ``32-true`` anywhere else. Formats
            are compared in ``32-true``: others multiply in fewer bits than some formats have.
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
            raise InputValueError(
                f"Budget: epochs={self.epochs} is neither a whole number nor between 0 and 1."
            )
        if self.reports < 1:
            raise InputValueError(f"Budget: reports={self.reports} is below 1.")
        if self.precision not in (*PRECISIONS, AUTO):
            choices = (*PRECISIONS, AUTO)
            raise InputValueError(f"Budget: precision={self.precision!r} is none of {choices}.")
        if not self.gradient_clip > 0:
            raise InputValueError(f"Budget: gradient_clip={self.gradient_clip} is not above 0.")
        if self.precision == AUTO:
            # Now, so that a study that goes on on another machine sees the difference.
            object.__setattr__(self, "precision", fast_precision(self.accelerator))

    def check(self) -> None:
        """Refuse what this machine cannot give, before any work starts.

        Raises:
            ValueError: As ``trainer``.
        """
        self.trainer(steps_per_epoch=1)

    def trainer(
        self,
        steps_per_epoch: int,
        logger: Logger | Sequence[Logger] | bool = False,
        callbacks: Sequence[L.Callback] = (),
        progress_bar: bool = False,
    ) -> L.Trainer:
        """A Trainer that stops after the budget and validates ``reports`` times.

        Raises:
            ValueError: If this machine has no such accelerator, or not in this precision.
        """
        check_accelerator(self.accelerator)
        steps = max(1, int(self.epochs * steps_per_epoch))
        reports = Reports(steps, self.reports)
        try:
            trainer = L.Trainer(
                max_steps=steps,
                val_check_interval=reports.places[0],
                check_val_every_n_epoch=None,  # places are counted over the ends of epochs
                num_sanity_val_steps=0,
                precision=self.precision,  # type: ignore[arg-type]  # checked by the Trainer
                gradient_clip_val=self.gradient_clip,
                accelerator=self.accelerator,
                devices=1,
                logger=logger,
                log_every_n_steps=max(1, steps // 50),
                callbacks=[reports, *callbacks],
                enable_checkpointing=False,
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
            )
        except (ValueError, ImportError, MisconfigurationException) as error:
            raise InputValueError(
                f"Budget: a Trainer with accelerator={self.accelerator!r} cannot be made: {error}"
            ) from error
        # Lightning only warns when it takes another one.
        if trainer.precision != self.precision:
            raise InputValueError(
                f"Budget: precision={self.precision!r} is not to be had with "
                f"accelerator={self.accelerator!r} here; use {trainer.precision!r}."
            )
        return trainer


def check_accelerator(name: object) -> None:
    """Refuse a GPU where there is none.

    Args:
        name: As a Trainer takes it.

    Raises:
        InputValueError: If so.
    """
    kinds = {"gpu": (CUDAAccelerator, MPSAccelerator), "cuda": (CUDAAccelerator,)}
    if name in kinds and not any(kind.is_available() for kind in kinds[str(name)]):
        raise InputValueError(f"accelerator={name!r}: there is no GPU here; use cpu or auto.")


def release(trainer: L.Trainer) -> None:
    """Let go of the module, the data and the optimizers of a Trainer that has done its work.

    They refer to each other: without this the models of a dozen trainings would wait in memory for
    a garbage collection, and data that travel to another process would take the Trainer along. The
    Trainer still knows its metrics and how far it came.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if data is not None:
        data.trainer = None
    module = trainer.strategy.lightning_module
    if module is None:
        return
    module.trainer = None
    strategy: Any = trainer.strategy
    strategy._lightning_module = strategy.model = None
    strategy.optimizers, strategy.lr_scheduler_configs = [], []
    connector: Any = trainer._data_connector
    connector._datahook_selector = None
    loops = (trainer.fit_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
    for loop in (*loops, trainer.fit_loop.epoch_loop.val_loop):
        source: Any = loop._data_source
        if source.instance is module:
            source.instance = None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # it is a list
        # Methods of the module, which Lightning gives them.
        vars(callback).pop("log", None)
        vars(callback).pop("log_dict", None)


class Reports(L.Callback):
    """Validate after given steps, where Lightning only knows an interval.

    The steps are ``round(i * total / reports)`` for i from 1 to ``reports``: spread evenly, at most
    one validation per step, and the last step is always validated.

    Args:
        total: Steps of the training, 1 or more; the Trainer counts them over the ends of epochs
            (``check_val_every_n_epoch=None``).
        reports: Validations, 1 or more.

    Attributes:
        places: Steps that are followed by a validation, counted from 1, rising.

    Example:
        >>> Reports(total=7, reports=4).places, Reports(total=2, reports=4).places
        ([2, 4, 5, 7], [1, 2])
    """

    def __init__(self, total: int, reports: int) -> None:
        rounded = {round(i * total / reports) for i in range(1, reports + 1)}
        self.places = sorted(rounded - {0})

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the next place; a resumed run looks at it before its first batch."""
        done = trainer.fit_loop.total_batch_idx + 1
        # Lightning validates after multiples of it, of which the place itself is the first.
        trainer.val_check_batch = next((place for place in self.places if place >= done), done + 1)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the next place; this batch counts already."""
        self.on_train_start(trainer)

"""What a training may spend."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adls.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Budget:
    """What a training, such as a trial of a search, may spend.

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
            raise InputError(
                f"Budget: epochs={self.epochs} is neither a whole number nor between 0 and 1."
            )
        if self.reports < 1:
            raise InputError(f"Budget: reports={self.reports} is below 1.")
        if self.precision not in PRECISIONS:
            raise InputError(f"Budget: precision={self.precision!r} is none of {PRECISIONS}.")
        if not self.gradient_clip > 0:
            raise InputError(f"Budget: gradient_clip={self.gradient_clip} is not above 0.")

    def trainer(
        self,
        steps_per_epoch: int,
        logger: TensorBoardLogger | bool = False,
        callbacks: Sequence[L.Callback] = (),
        progress_bar: bool = False,
    ) -> L.Trainer:
        """A Trainer that stops after the budget and validates ``reports`` times."""
        # Trainers and their modules refer to each other: without this the models and optimisers of
        # a dozen earlier trainings would wait in memory.
        gc.collect()
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

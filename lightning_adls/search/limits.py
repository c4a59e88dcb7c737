"""What a model may cost; one that costs more is not trained."""

import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_adls.budget import Budget, batches_of
from lightning_adls.errors import InputValueError
from lightning_adls.transforms.cost import count_parameters

_WARM_UP_STEPS = 2
_TIMED_STEPS = 6


@dataclass(frozen=True)
class Limits:
    """What a model may cost.

    Args:
        parameters: Most parameters, embeddings included; None for any number.
        seconds: Longest training in seconds, estimated from a few steps on a copy of the model,
            validation not included; None for any time. Which models fit depends on the machine
            and on what else it does, so a search with this limit need not repeat.

    Raises:
        ValueError: If a limit is not above 0.
    """

    parameters: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise InputValueError(f"Limits: parameters={self.parameters} is below 1.")
        if self.seconds is not None and not self.seconds > 0:
            raise InputValueError(f"Limits: seconds={self.seconds} is not above 0.")

    def exceeded(
        self, module: L.LightningModule, data: L.LightningDataModule, budget: Budget
    ) -> str | None:
        """Why ``module`` may not be trained, or None if it may."""
        count = count_parameters(module)
        if self.parameters is not None and count > self.parameters:
            return f"{count} parameters, limit {self.parameters}"
        if self.seconds is not None:
            seconds = training_seconds(module, data, budget)
            if seconds > self.seconds:
                return f"{seconds:.1f} s of training expected, limit {self.seconds:g}"
        return None


def training_seconds(
    module: L.LightningModule, data: L.LightningDataModule, budget: Budget
) -> float:
    """How long ``module`` would train within ``budget``, by timing a few steps.

    Neither the module nor the state of a random number generator changes.
    """
    steps = int(budget.trainer(batches_of(data)).max_steps)
    clock = _StepClock()
    trainer = L.Trainer(
        max_steps=_WARM_UP_STEPS + _TIMED_STEPS,
        limit_val_batches=0,
        precision=budget.precision,  # type: ignore[arg-type]  # checked by the Trainer
        gradient_clip_val=budget.gradient_clip,
        accelerator=budget.accelerator,
        devices=1,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with isolate_rng():
        trainer.fit(copy.deepcopy(module), datamodule=data)
    return steps * clock.seconds_per_step()


class _StepClock(L.Callback):
    """Notes the time at the end of each step, after the warm-up."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        if trainer.global_step >= _WARM_UP_STEPS:
            self.ends.append(perf_counter())

    def seconds_per_step(self) -> float:
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

"""What a model may cost; one that costs more is not trained."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any, Protocol, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_adls.budget import Budget, batches_of
from lightning_adls.errors import InputValueError
from lightning_adls.search.space import Choice
from lightning_adls.transforms.cost import count_parameters

# What can be limited and is known before a training.
BUDGETS = ("parameters", "bits_per_weight", "size_mb", "bit_operations")
_WARM_UP_STEPS = 2
_TIMED_STEPS = 6

_ChoiceT_contra = TypeVar("_ChoiceT_contra", bound=Choice, contravariant=True)


class Foresight(Protocol[_ChoiceT_contra]):
    """Knows what choices cost before anything is built, such as :class:`RecipeCosts`."""

    def __call__(self, choice: _ChoiceT_contra, /) -> Mapping[str, float]:
        """The costs of a choice, by name."""

    def least(self, space: Any, /) -> Mapping[str, float]:
        """By name, the least that a choice of a space can cost, each cost by itself."""


@dataclass(frozen=True)
class Limits:
    """What a model may cost.

    Args:
        parameters: Most parameters, embeddings included; None for any number.
        seconds: Longest training in seconds, estimated from a few steps on a copy of the model,
            validation not included; None for any time. Which models fit depends on the machine
            and on what else it does, so a search with this limit need not repeat.
        bits_per_weight: Most bits per weight, as :func:`lightning_adls.transforms.costs` counts.
        size_mb: Largest storage in 10^6 bytes, counted there too.
        bit_operations: Most of what
            :func:`lightning_adls.transforms.bit_operations.bit_operations` counts.

    Raises:
        ValueError: If a limit is not above 0.
    """

    parameters: int | None = None
    seconds: float | None = None
    bits_per_weight: float | None = None
    size_mb: float | None = None
    bit_operations: float | None = None

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise InputValueError(f"Limits: parameters={self.parameters} is below 1.")
        if self.seconds is not None and not self.seconds > 0:
            raise InputValueError(f"Limits: seconds={self.seconds} is not above 0.")
        for name, limit in self._budgets().items():
            if not 0 < limit < inf:
                raise InputValueError(f"Limits: {name}={limit} is not a number above 0.")

    def _budgets(self) -> dict[str, float]:
        """By the name of a cost, the most that it may be."""
        return {name: limit for name in BUDGETS if (limit := getattr(self, name)) is not None}

    @property
    def of_storage_or_arithmetic(self) -> bool:
        """Whether a cost is limited that number formats change."""
        return any(name != "parameters" for name in self._budgets())

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """By the name of each limited cost, the share by which it is above its limit.

        Args:
            costs: By name; those that are missing are not judged.

        Returns:
            Above 0 where a limit is exceeded, 0 at it: -0.5 is half of it.

        Example:
            >>> Limits(bits_per_weight=4).excess({"bits_per_weight": 5.0, "size_mb": 3.0})
            {'bits_per_weight': 0.25}
        """
        return {
            name: (costs[name] - limit) / limit
            for name, limit in self._budgets().items()
            if name in costs
        }

    def check_reachable(self, least: Mapping[str, float]) -> None:
        """Refuse a limit that is below the least possible cost.

        Raises:
            InputValueError: If there is one.
        """
        for name, limit in self._budgets().items():
            if name in least and least[name] > limit:
                raise InputValueError(
                    f"Limits: {name}={limit:g} is below {least[name]:.6g}, the least that a choice "
                    "of the space can have; allow that, or let the space have smaller formats."
                )

    def reason(self, costs: Mapping[str, float]) -> str | None:
        """Why a model of these costs is not trained; None if it may be."""
        for name, excess in self.excess(costs).items():
            if excess > 0 and name == "parameters":
                return f"{costs[name]:.0f} parameters, limit {self.parameters}"
            if excess > 0:
                return f"{name}={costs[name]:.6g}, limit {getattr(self, name):g}"
        return None

    def exceeded(
        self,
        module: L.LightningModule,
        data: L.LightningDataModule,
        budget: Budget,
        costs: Mapping[str, float] | None = None,
    ) -> str | None:
        """Why ``module`` may not be trained, or None if it may.

        Args:
            module: What would be trained.
            data: What it would be trained on.
            budget: What the training may spend.
            costs: What it will cost, by name; by default its parameters are counted.
        """
        known = {"parameters": count_parameters(module)} if costs is None else costs
        if reason := self.reason(known):
            return reason
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

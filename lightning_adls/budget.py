"""What a training may spend."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal, Self

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers import (
    _MultiProcessingLauncher,
    _SubprocessScriptLauncher,
)

from lightning_adls.devices import DDPFromHere
from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.threads import cores

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
AUTO = "auto"
# What a Trainer says of arguments that are wrong, or cannot be on this machine.
REFUSALS = (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException)
# Of Lightning's names, those of a strategy that a DDPFromHere can stand for, and its arguments.
_DDP: dict[str, dict[str, bool]] = {
    "ddp": {},
    "ddp_find_unused_parameters_false": {"find_unused_parameters": False},
    "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
}


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
        devices: How many devices of each machine train together, or the numbers of GPUs; ``auto``
            is all GPUs, or one process on a CPU. Each has a batch of its own: an epoch has fewer
            steps.
        strategy: How they do: ``auto``, which is ``ddp`` where there are several, or any name that
            Lightning knows, such as ``fsdp``. ``ddp`` on one machine is a :class:`DDPFromHere`,
            unless torchrun or srun have started a process for each device.
        num_nodes: How many machines train together, each with a process that torchrun or srun have
            started for each device.

    Raises:
        ValueError: If an argument is out of range.
    """

    epochs: float = 1.0
    reports: int = 4
    precision: str = "32-true"
    gradient_clip: float = 1.0
    accelerator: str = "auto"
    devices: int | tuple[int, ...] | Literal["auto"] = 1
    strategy: str = AUTO
    num_nodes: int = 1

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
        self._check_devices()
        # Now, so that a study that goes on on another machine sees the difference.
        if self.precision == AUTO:
            object.__setattr__(self, "precision", fast_precision(self.accelerator))
        if self.devices == AUTO:
            gpus = self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.device_count()
            object.__setattr__(self, "devices", gpus or 1)

    def _check_devices(self) -> None:
        if isinstance(self.devices, str):
            if self.devices != AUTO:
                raise InputValueError(
                    f"Budget: devices={self.devices!r} is neither a number, nor a list of the "
                    "numbers of GPUs, nor 'auto'."
                )
        elif isinstance(self.devices, int):
            if self.devices < 1:
                raise InputValueError(
                    f"Budget: devices={self.devices} is below 1; 'auto' is all that there are."
                )
        else:
            # A list of YAML or a caller; a frozen value has to be hashable.
            object.__setattr__(self, "devices", tuple(self.devices))
            if not self.devices or len(set(self.devices)) < len(self.devices):
                raise InputValueError(
                    f"Budget: devices={list(self.devices)} is empty or names a GPU twice."
                )
        if self.num_nodes < 1:
            raise InputValueError(f"Budget: num_nodes={self.num_nodes} is below 1.")
        known = [AUTO, *StrategyRegistry.available_strategies()]
        if self.strategy not in known:
            meant = did_you_mean(self.strategy, known) or ";"
            raise InputValueError(
                f"Budget: strategy={self.strategy!r} is unknown{meant} there are auto, ddp, fsdp "
                "and what else Lightning has a name for."
            )

    @property
    def processes(self) -> int:
        """How many processes train together, on all machines: one for each device."""
        devices = self.devices if isinstance(self.devices, int) else len(self.devices)
        return devices * self.num_nodes

    def on_one_device(self) -> Self:
        """The same on the first of the devices, which is enough to evaluate on."""
        first = (self.devices[0],) if isinstance(self.devices, tuple) else 1
        return replace(self, devices=first, strategy=AUTO, num_nodes=1)

    def check(self) -> None:
        """Refuse what this machine cannot give, before any work starts.

        Raises:
            ValueError: As ``trainer``.
        """
        self.trainer(steps_per_epoch=1)

    def check_repeatable(self) -> None:
        """Refuse what cannot train one model after another, as labs and searches do.

        Raises:
            ValueError: As ``trainer``, and where the script is run in several processes, or
                would be.
        """
        if (launched := launched_processes()) > 1:
            raise InputValueError(
                f"Budget: this is one of {launched} processes that torchrun or srun have started, "
                "and labs and searches are run by one; start it once, with devices above 1."
            )
        if self.num_nodes > 1:
            raise InputValueError(
                f"Budget: num_nodes={self.num_nodes} is not for labs and searches, whose trainings "
                "are each on one machine; several machines share a search by its studies, and "
                "`adls train` trains one model on several."
            )
        launcher = self.trainer(steps_per_epoch=1).strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            raise InputValueError(
                f"Budget: strategy={self.strategy!r} runs the whole script again for each device, "
                "which labs and searches cannot, having many trainings; use 'ddp' there, and "
                f"{self.strategy!r} in `adls train`."
            )
        if isinstance(launcher, _MultiProcessingLauncher):
            raise InputValueError(
                f"Budget: strategy={self.strategy!r} trains in processes of which weights alone "
                "come back; use 'ddp', in which this process is the first."
            )

    def trainer(
        self,
        steps_per_epoch: int,
        logger: Logger | Sequence[Logger] | bool = False,
        callbacks: Sequence[L.Callback] = (),
        progress_bar: bool = False,
    ) -> L.Trainer:
        """A Trainer that stops after the budget and validates ``reports`` times.

        Args:
            steps_per_epoch: Training batches if one device has them all; see
                :func:`batches_of`.
            logger: As a Trainer takes it.
            callbacks: As a Trainer takes them.
            progress_bar: Whether to show Lightning's.

        Raises:
            ValueError: If this machine has no such accelerator, not so many devices, or not in
                this precision, or this process is not told how to find the other machines.
        """
        check_accelerator(self.accelerator)
        steps = max(1, int(self.epochs * ceil(steps_per_epoch / self.processes)))
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
                devices=list(self.devices) if isinstance(self.devices, tuple) else self.devices,
                num_nodes=self.num_nodes,
                logger=logger,
                log_every_n_steps=max(1, steps // 50),
                callbacks=[reports, *callbacks],
                enable_checkpointing=False,
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
                **self._together(),
            )
        except REFUSALS as error:
            raise InputValueError(
                f"Budget: a Trainer with accelerator={self.accelerator!r}, "
                f"devices={self.devices} and strategy={self.strategy!r} cannot be made: "
                f"{' '.join(str(error).split())}"
            ) from error
        check_processes(trainer, "Budget")
        # Lightning only warns when it takes another one.
        if trainer.precision != self.precision:
            raise InputValueError(
                f"Budget: precision={self.precision!r} is not to be had with "
                f"accelerator={self.accelerator!r} here; use {trainer.precision!r}."
            )
        return trainer

    def _together(self) -> dict[str, Any]:
        """The arguments of a Trainer by which its devices train together."""
        ours = self.strategy in _DDP or (self.strategy == AUTO and self.processes > 1)
        if not ours or self.num_nodes > 1 or launched_processes() > 1:
            return {"strategy": self.strategy}
        # Else Lightning would take a job of SLURM for one that has started all processes.
        here = LightningEnvironment()
        return {"strategy": DDPFromHere(**_DDP.get(self.strategy, {})), "plugins": [here]}


def launched_processes() -> int:
    """How many processes torchrun or srun have started of this script; 1 if none of them did."""
    environments = (TorchElasticEnvironment, SLURMEnvironment)
    return max((kind().world_size() for kind in environments if kind.detect()), default=1)


def batches_of(data: L.LightningDataModule) -> int:
    """Training batches of an epoch, if one device has them all."""
    alone = copy.copy(data)
    alone.trainer = None  # an earlier one may have shared them among devices
    return len(alone.train_dataloader())


def check_processes(trainer: L.Trainer, who: str) -> None:
    """Refuse more processes than a CPU has cores, and machines that cannot find each other.

    Args:
        trainer: That was just made.
        who: Begins the message.

    Raises:
        InputValueError: If so.
    """
    strategy = trainer.strategy
    if strategy.root_device.type == "cpu" and trainer.num_devices > cores():
        raise InputValueError(
            f"{who}: devices={trainer.num_devices} are more processes than this machine has "
            f"cores, {cores()}, and there is no other accelerator in use; give at most that many."
        )
    if not isinstance(strategy, ParallelStrategy):
        return
    environment = strategy.cluster_environment
    assert environment is not None
    told = not isinstance(environment, LightningEnvironment) or "NODE_RANK" in os.environ
    if trainer.num_nodes > 1 and not told:
        raise InputValueError(
            f"{who}: num_nodes={trainer.num_nodes} needs a process on each machine that knows its "
            "place: start it by torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on "
            "each."
        )
    try:
        environment.validate_settings(trainer.num_devices, trainer.num_nodes)
    except ValueError as error:
        raise InputValueError(f"{who}: {' '.join(str(error).split())}") from error


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

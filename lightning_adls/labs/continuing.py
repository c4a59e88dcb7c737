"""Going on from a checkpoint with the settings of this call, not with those of the last one."""

from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any

import lightning as L
import torch
from torch.optim.lr_scheduler import LambdaLR

from lightning_adls.errors import InputValueError, MissingFileError

_OF_A_FIT = {"optimizer_states", "lr_schedulers", "loops"}


def read_checkpoint(path: Path, lab: str, *, fitting: bool, weights_only: bool) -> dict[str, Any]:
    """Read a checkpoint of Lightning, or say why it is of no use.

    Args:
        path: Of the file.
        lab: Who asks.
        fitting: Whether a fit is to go on from it.
        weights_only: Whether to refuse a file that holds other objects than tensors and text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or one of weights alone and ``fitting``.
    """
    who = f"{lab}: ckpt_path={str(path)!r}"
    if path.is_dir():
        raise InputValueError(f"{who} is a folder; give the path of a checkpoint in it.")
    if not path.is_file():
        raise MissingFileError(f"{who} is not there; give 'last', 'best' or the path of a file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=weights_only)
    except (
        *(OSError, EOFError, RuntimeError, UnpicklingError, StructError),
        *(ValueError, TypeError, LookupError, AttributeError),  # of a pickle of something else
    ) as error:
        raise InputValueError(f"{who} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise InputValueError(f"{who} is no checkpoint of Lightning.")
    if "pytorch-lightning_version" not in content or (fitting and not set(content) >= _OF_A_FIT):
        raise InputValueError(f"{who} holds weights alone; give it as --weights.")
    return content


def settings_of_checkpoint(
    content: dict[str, Any], known: Collection[str], given: Collection[str]
) -> dict[str, Any]:
    """Arguments of the model that a checkpoint holds and this call was not given.

    Args:
        content: Of the checkpoint.
        known: Arguments that the model has.
        given: Those that the user gave, on the command line or in a file.

    Raises:
        ValueError: If the model was changed by transforms that the checkpoint does not describe.
    """
    held: dict[str, Any] = content.get("hyper_parameters", {})
    # The number of classes is that of the data.
    names = [n for n in held if n in known and n not in given and n != "num_classes"]
    for transform in held["transforms"] if "transforms" in names else []:
        if isinstance(transform, str):
            raise InputValueError(
                f"train: the checkpoint is of a model changed by {transform}; give the same "
                "--model.transforms."
            )
    return {name: held[name] for name in names}


class SettingsOfThisCall(L.Callback):
    """Continue a fit with the learning rate, weight decay and patience that this call was given.

    Lightning takes them from the checkpoint. Here it has a say in how far the fit and its schedules
    have come, and in the optimizer's averages. Where this call was given what the checkpoint holds,
    nothing changes.
    """

    def __init__(self) -> None:
        self._groups: list[list[dict[str, Any]]] = []

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the patience of this call."""
        for callback in trainer.early_stopping_callbacks:
            if callback.state_key in checkpoint["callbacks"]:
                checkpoint["callbacks"][callback.state_key]["patience"] = callback.patience

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember what the optimizers are made with; their states are loaded after this."""
        self._groups = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give it back, with the learning rate as far along its schedule as it was."""
        if trainer.ckpt_path is None:
            return
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            # Not strict: other callbacks add groups for layers that they thaw.
            for group, given in zip(optimizer.param_groups, groups, strict=False):
                _restore(group, given, scheduled=bool(trainer.lr_scheduler_configs))
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            if hasattr(scheduler, "base_lrs"):
                groups = scheduler.optimizer.param_groups
                scheduler.base_lrs = [group["initial_lr"] for group in groups]
            if isinstance(scheduler, LambdaLR):
                # A schedule that has become longer is elsewhere after the same steps.
                for group, factor in zip(groups, scheduler.lr_lambdas, strict=False):
                    group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)


def _restore(group: dict[str, Any], given: dict[str, Any], scheduled: bool) -> None:
    if "weight_decay" in given:
        group["weight_decay"] = given["weight_decay"]
    if not scheduled:
        group["lr"] = given["lr"]
    elif "initial_lr" in given and given["initial_lr"] != group["initial_lr"]:
        group["lr"] *= given["initial_lr"] / group["initial_lr"]
        group["initial_lr"] = given["initial_lr"]

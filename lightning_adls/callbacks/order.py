"""Callbacks that average a module copy it in their ``setup``: layers must be swapped before."""

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import AveragedModel

from lightning_adls.errors import InputValueError


def refuse_earlier_copies(callback: L.Callback, trainer: L.Trainer) -> None:
    """Refuse to have swapped layers where an average of the module is without the new ones.

    Such an average is paired with the module by position and saved in its place, so that scales,
    masks and weights get mixed up, or what is saved rounds and prunes nothing.

    Args:
        callback: Whose ``setup`` swapped layers.
        trainer: Whose callbacks before that one may hold a copy of the module.

    Raises:
        ValueError: If there is such a callback.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    for other in _before(callback, trainer):
        if _averages(other):
            who = type(callback).__name__
            raise InputValueError(
                f"{who}: callbacks has {type(other).__name__} before it, which averages the module "
                f"without its new layers; put {who} first."
            )


def refuse_copies_of_other_ranges(trainer: L.Trainer) -> None:
    """Refuse to have calibrated a module whose average was made before and is saved in its place.

    Raises:
        ValueError: If a callback of the Trainer holds such an average.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for other in callbacks if trainer.state.fn == TrainerFn.FITTING else []:
        if _holds_average(other):
            raise InputValueError(
                f"Calibration: callbacks has {type(other).__name__}, which copied the module "
                "before its ranges were chosen; calibrate it before (lightning_adls.calibrate) "
                "and use QuantizationAwareTraining."
            )


def refuse_averages(callback: L.Callback, trainer: L.Trainer) -> None:
    """Refuse averages of a module whose formats change while it trains.

    Raises:
        ValueError: If a callback of the Trainer averages the weights.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if averaging := [other for other in callbacks if _averages(other)]:
        raise InputValueError(
            f"{type(callback).__name__}: callbacks has {type(averaging[0]).__name__}, whose copy "
            "of the module would keep the formats of one stage; leave it out."
        )


def _before(callback: L.Callback, trainer: L.Trainer) -> list[L.Callback]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks[: callbacks.index(callback)] if callback in callbacks else []


def _averages(callback: L.Callback) -> bool:
    averaging = isinstance(callback, WeightAveraging | StochasticWeightAveraging)
    return averaging or _holds_average(callback)


def _holds_average(callback: L.Callback) -> bool:
    return any(isinstance(value, AveragedModel) for value in vars(callback).values())

"""Processes that the Trainer launches itself: weights are all that comes back of them.

So it is with ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook``. The callbacks' ``setup`` runs in
those processes alone. The state dict of the first is then loaded into the caller's module, whose
layers are as they were, and what has no place there is dropped without a word.
"""

import lightning as L
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_adls.errors import InputValueError


def refuse_lost_layers(who: str, trainer: L.Trainer, instead: str) -> None:
    """Refuse to swap layers in a process that hands back weights alone.

    Args:
        who: Begins the message.
        trainer: Whose strategy launches processes, or not.
        instead: What the user shall do.

    Raises:
        ValueError: If this is such a process.
    """
    if hands_back_weights_alone(trainer):
        raise InputValueError(
            f"{who}: layers that are swapped in a launched process ('ddp_spawn', 'ddp_fork', "
            f"'ddp_notebook') are lost when it ends; {instead}, or use strategy='ddp' or one "
            "device."
        )


def hands_back_weights_alone(trainer: L.Trainer) -> bool:
    """Whether the Trainer trains in processes of which weights are all that comes back."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def repeat_refusal(error: BaseException) -> None:
    """Raise in the main process what this package refused in a launched one.

    Call it in ``on_exception``.

    Raises:
        ValueError: With the sentence of the process, if that is what ``error`` is about.
    """
    if not isinstance(error, ProcessRaisedException):
        return
    *_, last = str(error).strip().splitlines()
    kind, _, sentence = last.partition(": ")
    if kind.rpartition(".")[0] == InputValueError.__module__:
        raise InputValueError(sentence) from error

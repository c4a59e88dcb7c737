"""Continuing a run with the random numbers it would have drawn next."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_adls.data.resuming import place_of, settle


class RngState(L.Callback):
    """Keep the states of the random number generators in checkpoints.

    Lightning does not, so that dropout and shuffling go another way after a resume. With this
    callback ``fit(ckpt_path=...)`` repeats the uninterrupted run bit for bit, from any step and
    from the end of an epoch: Lightning's own counting is mended where it is off, and validations
    that were due are made up for. Within an epoch the dataloader has to keep its place, as
    :class:`TextData`'s and any ``torchdata.stateful_dataloader.StatefulDataLoader`` does.
    ``validate``, ``test`` and ``predict`` with a ``ckpt_path`` leave the generators alone.

    Covers Python's, NumPy's and torch's generators (of the CPU and of every CUDA device), not those
    of worker processes. Each process of a distributed run would need a state of its own, but a
    checkpoint holds that of the first: resumed ranks all continue with it.

    Warns:
        UserWarning: If a resumed fit cannot repeat the uninterrupted one, because a dataloader
            does not keep its place, or the gradients of an accumulation are not in the checkpoint.
    """

    def __init__(self) -> None:
        self._fitting = False
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note whether a checkpoint would be resumed; Lightning loads it after this."""
        self._fitting = stage == TrainerFn.FITTING
        self._resumed = None  # not taken up by a fit that failed, and did not get to its teardown

    def state_dict(self) -> dict[str, Any]:
        """The states, as tensors, numbers and text: what ``weights_only`` loads."""
        numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002  # the global one
        return {
            "python": random.getstate(),
            "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
            "torch": torch.get_rng_state(),
            "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the generators, if this is a fit."""
        if self._fitting:
            self._resumed = state_dict
            self._restore(state_dict)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on where the checkpoint was written, with its generators if that is within an epoch.

        Making the dataloaders' iterators, and much else, drew from them since they were loaded.
        """
        settle(trainer)
        if trainer.fit_loop.is_resuming:
            _say_what_is_lost(trainer)
            self._take_up()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Set the generators before an epoch's iterators are made, which draw from them."""
        self._take_up()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Forget a state that no batch took up."""
        self._fitting, self._resumed = False, None

    def _take_up(self) -> None:
        if self._resumed is not None:
            self._restore(self._resumed)
            self._resumed = None

    def _restore(self, state: dict[str, Any]) -> None:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(_on_cpu(state["torch"]))
        for device, numbers in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_on_cpu(numbers), device)


def _say_what_is_lost(trainer: L.Trainer) -> None:
    loop = trainer.fit_loop
    _, batch = place_of(loop)
    if not batch:
        return
    for loader in loop._combined_loader.flattened if loop._combined_loader else []:
        if not hasattr(loader, "load_state_dict"):
            rank_zero_warn(
                f"RngState: {type(loader).__name__} does not keep its place, so this epoch goes on "
                "with other batches than the uninterrupted one; use torchdata's "
                "StatefulDataLoader, or resume from the end of an epoch."
            )
    if batch % trainer.accumulate_grad_batches:
        rank_zero_warn(
            f"RngState: accumulate_grad_batches={trainer.accumulate_grad_batches} was under way "
            "when the checkpoint was written, and it does not hold the gradients; resume from one "
            "that follows a step to repeat the uninterrupted run."
        )


def _on_cpu(state: Tensor) -> Tensor:
    # Lightning may load a checkpoint onto the device that trains; generators take CPU tensors.
    return state.cpu()

"""Continuing a run with the random numbers it would have drawn next."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class RngState(L.Callback):
    """Keep the states of the random number generators in checkpoints.

    Lightning does not, so that dropout and shuffling go another way after a resume. With this
    callback ``fit(ckpt_path=...)`` repeats the uninterrupted run bit for bit, also from the middle
    of an epoch if the dataloader keeps its place too, as :class:`TextData`'s and any
    ``torchdata.stateful_dataloader.StatefulDataLoader`` does. ``validate``, ``test`` and
    ``predict`` with a ``ckpt_path`` leave the generators alone.

    Covers Python's, NumPy's and torch's generators (of the CPU and of every CUDA device). Each
    process of a distributed run would need a state of its own, but a checkpoint holds that of the
    first: resumed ranks all continue with it.
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

    def on_train_batch_start(self, *_: Any) -> None:
        """Set the generators again: making the dataloaders' iterators drew from them."""
        if self._resumed is not None:
            self._restore(self._resumed)
            self._resumed = None

    def teardown(self, *_: Any, **__: Any) -> None:
        """Forget a state that no batch took up."""
        self._fitting, self._resumed = False, None

    def _restore(self, state: dict[str, Any]) -> None:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(_on_cpu(state["torch"]))
        for device, numbers in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_on_cpu(numbers), device)


def _on_cpu(state: Tensor) -> Tensor:
    # Lightning may load a checkpoint onto the device that trains; generators take CPU tensors.
    return state.cpu()

"""Continuing a run with the random numbers it would have drawn next."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
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

    Covers Python's, NumPy's and torch's generators (of the CPU and of every CUDA device), and those
    that were given to the training dataloaders or their samplers (``generator=``), not those of
    worker processes. Each process of a distributed run would need a state of its own, but a
    checkpoint holds that of the first: resumed ranks all continue with it.

    Warns:
        UserWarning: If a resumed fit cannot repeat the uninterrupted one, because a dataloader
            does not keep its place, or the gradients of an accumulation are not in the checkpoint.
    """

    def __init__(self) -> None:
        self._fitting = False
        self._resumed: dict[str, Any] | None = None
        self._of_loaders: list[torch.Generator] = []

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
            "loaders": [generator.get_state() for generator in self._of_loaders],
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
        self._of_loaders = _generators_of(trainer)
        if trainer.fit_loop.is_resuming:
            _say_what_is_lost(trainer)
            self._take_up()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the generators before an epoch's iterators are made, which draw from them."""
        self._of_loaders = _generators_of(trainer)  # dataloaders may be others in each epoch
        self._take_up()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Forget a state that no batch took up."""
        self._fitting, self._resumed, self._of_loaders = False, None, []

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
        # Older checkpoints have none.
        for generator, numbers in zip(self._of_loaders, state.get("loaders", ()), strict=False):
            generator.set_state(_on_cpu(numbers))


def _generators_of(trainer: L.Trainer) -> list[torch.Generator]:
    """Those of the training dataloaders and of their samplers, each once."""
    owners: list[Any] = []
    for loader in _training_loaders(trainer):
        samplers = _samplers_of(loader)
        owners += [loader, *samplers, *(each.dataset._sampler for each in samplers if _wraps(each))]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _training_loaders(trainer: L.Trainer) -> list[Any]:
    combined = trainer.fit_loop._combined_loader
    return combined.flattened if combined else []


def _samplers_of(loader: Any) -> list[Any]:
    batches = getattr(loader, "batch_sampler", None)
    return [getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]


def _wraps(sampler: Any) -> bool:
    """Whether Lightning made it of another one, to share its samples among processes."""
    return isinstance(sampler, DistributedSamplerWrapper)


def _say_what_is_lost(trainer: L.Trainer) -> None:
    loop = trainer.fit_loop
    _, batch = place_of(loop)
    if not batch:
        return
    for loader in _training_loaders(trainer):
        if any(map(_wraps, _samplers_of(loader))):
            rank_zero_warn(
                f"RngState: the order of {type(loader).__name__}(shuffle=True) over several "
                "processes is in no checkpoint, so this epoch goes on with other batches than the "
                "uninterrupted one; pass sampler=DistributedSampler(dataset), or resume from the "
                "end of an epoch."
            )
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

"""Pruning while a model trains, by a schedule over the budget of steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_adls.callbacks.averages import copy_masks
from lightning_adls.callbacks.delivery import DeliversLater
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.callbacks.sharding import refuse_sharded
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.errors import InputValueError
from lightning_adls.layers import COMPUTING
from lightning_adls.transforms.cost import sparsity_of
from lightning_adls.transforms.prune import Prune

# From the share of the budget that is spent, 0 to 1, to the sparsity.
Schedule = Callable[[float], float]


@dataclass(frozen=True)
class OneShot:
    """Prune once.

    Args:
        sparsity: Reached in one step, 0 to below 1.
        at: Share of the budget that is spent before, 0 to 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> schedule = OneShot(0.5, at=0.25)
        >>> schedule(0.2), schedule(0.25)
        (0.0, 0.5)
    """

    sparsity: float
    at: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputValueError(f"OneShot: sparsity={self.sparsity} is not in 0 <= sparsity < 1.")
        if not 0 <= self.at <= 1:
            raise InputValueError(f"OneShot: at={self.at} is not in 0..1.")

    def __call__(self, share: float) -> float:
        """The sparsity when ``share`` of the budget is spent."""
        return self.sparsity if share >= self.at else 0.0


@dataclass(frozen=True)
class Cubic:
    """Prune in steps, many weights at first and ever fewer towards the end.

    Zhu and Gupta, "To prune, or not to prune" (2017, arXiv:1710.01878), equation 1: with ``k`` of
    ``n`` updates done, the sparsity is ``final + (initial - final) * (1 - k / n) ** 3``.

    Args:
        sparsity: The final one, 0 to below 1.
        initial: Sparsity at ``start``, 0 to ``sparsity``; before it nothing is pruned.
        start: Share of the budget at which pruning starts, 0 to below ``end``.
        end: Share of the budget at which the final sparsity is reached, up to 1.
        updates: Steps between ``start`` and ``end``, 1 or more.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> schedule = Cubic(0.8, end=0.5, updates=2)
        >>> [round(schedule(share), 3) for share in (0.0, 0.2, 0.25, 0.4, 0.5, 1.0)]
        [0.0, 0.0, 0.7, 0.7, 0.8, 0.8]
    """

    sparsity: float
    initial: float = 0.0
    start: float = 0.0
    end: float = 0.75
    updates: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputValueError(f"Cubic: sparsity={self.sparsity} is not in 0 <= sparsity < 1.")
        if not 0 <= self.initial <= self.sparsity:
            raise InputValueError(
                f"Cubic: initial={self.initial} is not in 0..{self.sparsity}, the final sparsity."
            )
        if not 0 <= self.start < self.end <= 1:
            raise InputValueError(
                f"Cubic: start={self.start} and end={self.end} are not 0 <= start < end <= 1; "
                "OneShot prunes at once."
            )
        if self.updates < 1:
            raise InputValueError(f"Cubic: updates={self.updates} is below 1.")

    def __call__(self, share: float) -> float:
        """The sparsity when ``share`` of the budget is spent."""
        if share < self.start:
            return 0.0
        # The margin lets a share that is meant to lie on an update, but for its last bit, reach it.
        passed = (share - self.start) / (self.end - self.start) * self.updates + 1e-9
        left = 1 - min(math.floor(passed), self.updates) / self.updates
        return self.sparsity + (self.initial - self.sparsity) * left**3


class Pruning(LayerSwapping, DeliversLater):
    """Prune the layers of any LightningModule while it trains.

    When a stage is set up, the layers are swapped for ones that carry a mask, on the same
    parameters, so that checkpoints of pruned models load. From then on the sparsity of
    ``schedule`` is reached after each optimiser step: validations and checkpoints that follow a
    step see its masks, and after the last step the model has the sparsity of share 1, also when
    that is the only one at which the schedule prunes. A run that stops early keeps what it has
    reached, which is warned of. Masks only grow: what is sparser than the schedule waits until it
    catches up.

    The masks are all the state there is, and are part of the model's checkpoints: a resumed run
    goes on where it was. Under DDP every process computes the same masks, because weights and seed
    are the same; where the Trainer launches its processes itself (``ddp_spawn``, ``ddp_fork``,
    ``ddp_notebook``), call ``prepare(module)`` before the fit. Averages of the weights that other
    callbacks keep get the masks of the module. Each change logs ``sparsity``, that of the whole
    model.

    No model that is less sparse than the schedule's end is chosen by its score: until that sparsity
    is reached, a ``ModelCheckpoint`` with a ``monitor`` keeps its latest files, of which none is
    the best, and ``EarlyStopping`` waits for nothing; both compare from the first value of their
    metric that is logged after that.

    Args:
        schedule: From the share of the Trainer's steps that are done, 0 to 1, to the sparsity:
            :class:`OneShot`, :class:`Cubic` or any function that does not fall.
        method: As in :class:`Prune`.
        scope: As in :class:`Prune`.
        layers: As in :class:`Prune`; names of modules in the LightningModule, which has to have
            them when its ``setup`` is called.
        kinds: As in :class:`Prune`.
        seed: As in :class:`Prune`.

    Raises:
        ValueError: If an argument is out of range; out of ``fit``, if the Trainer has no end, the
            model is sparser than the schedule's end or another callback does not go with masks.

    Warns:
        UserWarning: If a fit ends at a lower sparsity than the schedule does.

    Example:
        >>> trainer = L.Trainer(max_epochs=3, callbacks=[Pruning(Cubic(0.9))], logger=False)
    """

    done_when = "the sparsity of the schedule's end is reached"

    def __init__(
        self,
        schedule: Schedule,
        method: Literal["l1", "random"] = "l1",
        scope: Literal["local", "global"] = "local",
        layers: Sequence[str] = ("*",),
        kinds: Sequence[str] = COMPUTING,
        seed: int = 0,
    ) -> None:
        if not callable(schedule):
            raise InputValueError(
                f"Pruning: schedule={schedule!r} cannot be called; give OneShot({schedule!r}) or "
                "Cubic."
            )
        self._final = Prune(schedule(1.0), method, scope, layers, kinds, seed=seed)
        super().__init__(later=schedule(0.0) < self._final.sparsity)
        self.schedule = schedule
        self._target = 0.0

    def prepare(self, module: nn.Module) -> None:
        """Swap the layers of ``module`` in place and give them masks, as ``setup`` does."""
        self._final.prepare(module)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Swap layers.

        Raises:
            ValueError: As of any callback that swaps layers; in ``fit``, if weights are sharded.
        """
        if stage == TrainerFn.FITTING:
            refuse_sharded("Pruning", trainer, "call Prune before the fit, whose masks stay")
        super().setup(trainer, pl_module, stage)

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        return dict.fromkeys(self._final.layers, True), self._final.kinds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prune as the schedule says of what is done already: nothing, or a part in a resumed run.

        Raises:
            ValueError: If the Trainer has no end, or the model is sparser than the schedule's.
        """
        # Not earlier: it makes the dataloader, which then misses the place to resume from.
        _, total = progress_of(trainer)
        # -1 is what the Trainer says of data without a length.
        if total == math.inf or total < 0:
            raise InputValueError(
                "Pruning: the Trainer has no end; set max_steps, or max_epochs if the data has a "
                "length."
            )
        self._final.check(pl_module)
        self._target = self._scheduled(trainer)
        if not self._final.is_reached(pl_module):
            self._forget_earlier(trainer)
        self._prune(trainer, pl_module)
        self._note(trainer, not self._final.is_reached(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Prune further where the schedule has risen."""
        target, unfinished = self._scheduled(trainer), self._unfinished
        if target > self._target:
            self._target = target
            self._prune(trainer, pl_module)
            unfinished = not self._final.is_reached(pl_module)
        self._note(trainer, unfinished)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of a model that is less sparse than it was to be."""
        super().on_train_end(trainer, pl_module)
        if self._unfinished:
            done, total = progress_of(trainer)
            rank_zero_warn(
                f"Pruning: training ended after {done:.0f} of {total:.0f} steps "
                f"at a sparsity of {self._final.sparsity_of(pl_module):.4g}, below the "
                f"{self._final.sparsity:.4g} at the end of the schedule; train to the end, or call "
                f"Prune({self._final.sparsity:.4g}) for the rest."
            )

    def _scheduled(self, trainer: L.Trainer) -> float:
        done, total = progress_of(trainer)
        return self.schedule(min(1.0, done / max(1.0, total)))

    def _prune(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        replace(self._final, sparsity=self._target).prune_up_to(pl_module)
        copy_masks(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics({"sparsity": sparsity_of(pl_module)}, step=trainer.global_step)

"""Training any LightningModule with fewer and fewer bits."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_adls.callbacks.delivery import DeliversLater
from lightning_adls.callbacks.methods import wrap_method
from lightning_adls.callbacks.order import refuse_averages
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.callbacks.quantization import Recipe, is_dry, quantised_by, read_recipe
from lightning_adls.callbacks.scales import warn_of_groups
from lightning_adls.callbacks.sharding import refuse_sharded
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.errors import InputValueError
from lightning_adls.layers import ROLES, LayerFormats, formats_of
from lightning_adls.transforms.parameter_groups import learned_scales
from lightning_adls.transforms.quantize import Quantize, recipe_of

_WHO = "StagedQuantization"


class StagedQuantization(LayerSwapping, DeliversLater):
    """Train with the recipe of one stage after the other, such as 8, 4, 2 and 1 bits.

    A network learns to do with few bits from one that does with some more (BiT, Liu et al. 2022,
    arXiv:2205.13016, section 3.3). When a stage begins, weights, optimizers and schedulers stay as
    they are. Formats that change learn their scales anew: the first batch of the stage fits them,
    and the optimizer forgets what it knew of the old ones. Where a stage has scales that another
    has not, or of another number, ``configure_optimizers`` is asked for the groups of parameters
    again.

    The state dict has the formats of the stage at every moment. A resumed fit begins with those of
    its checkpoint, and goes on with the share that is done. Outside of a fit a module that was not
    quantised gets the last stage. Within a fit no model of an earlier stage is chosen by its score,
    as with :class:`QuantizationAwareTraining`.

    Args:
        stages: From the share of the Trainer's optimizer steps at which a stage begins, from 0 to
            below 1, to its recipe, as :class:`QuantizationAwareTraining` takes it. The first begins
            at 0. A layer that a later recipe does not name keeps its formats.

    Raises:
        ValueError: If the shares are out of range or none is 0; in ``fit``, if it has no end, ends
            before the last stage or leaves it no step, a callback averages the weights, weights are
            sharded, or several processes train and stages have other scales.

    Warns:
        UserWarning: As :class:`QuantizationAwareTraining` of learned scales.

    Example:
        >>> stages = {0.0: 8, 0.3: 4, 0.6: 2}
        >>> callback = StagedQuantization(
        ...     {share: {"*": f"LearnedInteger(width={width})"} for share, width in stages.items()}
        ... )
    """

    done_when = "the last stage begins"

    def __init__(self, stages: Mapping[float, Recipe]) -> None:
        shares = sorted(stages)
        if not shares or shares[0] != 0 or not shares[-1] < 1:
            raise InputValueError(
                f"{_WHO}: stages begins at {shares}; the first share is 0, the others are below 1."
            )
        super().__init__(later=len(shares) > 1)
        self.shares: Sequence[float] = shares
        self.recipes = [read_recipe(stages[share]) for share in shares]
        self._stage = 0
        # Takes the wrapped loading of checkpoints away again.
        self._undo: Callable[[], None] | None = None

    def prepare(self, module: nn.Module) -> None:
        """Quantise ``module`` in place, as ``setup`` does: before a fit, by the first stage."""
        self.recipes[self._stage](module)

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        return quantised_by(self.recipes[self._stage])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Quantise by the first stage, or by the last where nothing is trained.

        Raises:
            ValueError: As of any callback that swaps layers; in ``fit``, if weights are sharded, or
                several processes train and stages have other scales.
        """
        fitting = stage == TrainerFn.FITTING
        if fitting:
            refuse_sharded(_WHO, trainer, "train each stage by a fit of its own")
            if trainer.world_size > 1:
                self._refuse_other_scales(pl_module)
        if fitting or not _rounds(pl_module):
            self._stage = 0 if fitting else len(self.recipes) - 1
            super().setup(trainer, pl_module, stage)

        def follow(load: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
            if (recipe := recipe_of(checkpoint["state_dict"])) is not None:
                recipe(pl_module)
            load(checkpoint)

        # Before the module itself looks at it, which takes what fits its formats.
        self._forget_module()
        self._undo = wrap_method(pl_module, "on_load_checkpoint", follow)

    def _forget_module(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _refuse_other_scales(self, module: nn.Module) -> None:
        """DDP knows the parameters that it found when it was set up."""
        first, *others = (_scale_counts(recipe, module) for recipe in self.recipes)
        for counts in others:
            if changed := [name for name in first | counts if first.get(name) != counts.get(name)]:
                raise InputValueError(
                    f"{_WHO}: {changed[0]!r} has not as many learned scales in each stage, which "
                    "several processes cannot train in one fit; train each stage by a fit of its "
                    "own, or use one device."
                )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether other callbacks go with it.

        Raises:
            ValueError: If one averages the weights, whose copy has the formats of one stage.
        """
        super().on_fit_start(trainer, pl_module)
        refuse_averages(self, trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse stages that would never come; a resumed fit may be past the first."""
        self._check_shares(trainer)
        # A resumed fit may validate before its next batch, as its last batch would have had it.
        stage = self._stage_of(trainer, batches_ago=1)
        if stage < len(self.shares) - 1:
            self._forget_earlier(trainer)
        self._begin(stage, trainer, pl_module)
        warn_of_groups(self, trainer, pl_module)

    def _check_shares(self, trainer: L.Trainer) -> None:
        _, total = progress_of(trainer)
        if not 0 < total < inf:
            raise InputValueError(
                f"{_WHO}: stages are shares of a fit that has no end; set the Trainer's max_steps."
            )
        if self.shares[-1] * total > total - 1 and not is_dry(trainer):
            raise InputValueError(
                f"{_WHO}: the stage at {self.shares[-1]} leaves none of the {total} steps of the "
                "fit; begin it earlier, or train longer."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a stage when it is time."""
        stage = self._stage_of(trainer)
        if stage != self._stage:
            self._begin(stage, trainer, pl_module)
        elif self._later:
            self._note(trainer, stage < len(self.shares) - 1)

    def _stage_of(self, trainer: L.Trainer, batches_ago: int = 0) -> int:
        done, total = progress_of(trainer, batches_ago)
        starts = [share * total for share in self.shares]
        return max(0, bisect_right(starts, done) - 1)

    def _begin(self, stage: int, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._stage = stage
        _change(self.recipes[stage], trainer, module)
        self._note(trainer, stage < len(self.shares) - 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to deliver a model of an earlier stage.

        Raises:
            ValueError: If the fit was ended before the last stage.
        """
        if self._unfinished and not is_dry(trainer):
            done, total = progress_of(trainer)
            raise InputValueError(
                f"{_WHO}: training ended after {done:.0f} steps, before the last stage begins at "
                f"step {ceil(self.shares[-1] * total)}; begin it earlier, or do not stop before it."
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module with the formats that it has."""
        super().teardown(trainer, pl_module, stage)
        self._forget_module()


def _rounds(module: nn.Module) -> bool:
    return any(formats_of(layer) != LayerFormats() for layer in module.modules())


def _scale_counts(recipe: Quantize, module: nn.Module) -> dict[str, int]:
    """How many scales a recipe learns, by layers and what they round."""
    found = {}
    for name, formats in recipe.match(module).items():
        for role in ROLES:
            fmt = getattr(formats, role)
            if fmt is not None and (scales := fmt.initial_scales()) is not None:
                found[f"{name}.{role}_scales"] = scales.numel()
    return found


def _change(recipe: Quantize, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Quantise by another recipe in the middle of a fit."""
    before = learned_scales(module)
    recipe(module)
    after = learned_scales(module)
    changed = [name for name, scales in after.items() if before.get(name) is not scales]
    for name in changed:
        old = before.get(name)
        if old is not None and old.shape == after[name].shape:
            # The same parameter, for the optimizer and for DDP.
            with torch.no_grad():
                old.copy_(after[name])
            layer, _, entry = name.rpartition(".")
            setattr(module.get_submodule(layer), entry, old)
            for optimizer in trainer.optimizers:
                optimizer.state.pop(old, None)
    kept = learned_scales(module)
    if {id(s) for s in kept.values()} != {id(s) for s in before.values()}:
        _renew_groups(trainer, module)


def _renew_groups(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Have the optimizers train the parameters that they would if they were made now."""
    if not trainer.optimizers:
        return
    made, _ = _init_optimizers_and_lr_schedulers(module)
    for optimizer, new in zip(trainer.optimizers, made, strict=True):
        for group, other in zip(optimizer.param_groups, new.param_groups, strict=True):
            group["params"] = other["params"]
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter in [p for p in optimizer.state if id(p) not in trained]:
            del optimizer.state[parameter]

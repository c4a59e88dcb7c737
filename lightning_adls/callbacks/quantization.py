"""Training any LightningModule with rounded numbers."""

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_adls.callbacks.delivery import DeliversLater
from lightning_adls.callbacks.progress import progress_of
from lightning_adls.callbacks.scales import warn_of_groups
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.errors import InputValueError
from lightning_adls.layers import LayerFormats, QuantizedLayer
from lightning_adls.layers.layer_formats import ROLES
from lightning_adls.transforms.quantize import SETTINGS, Quantize, layer_formats, records_of

Recipe = Quantize | Mapping[str, Any] | str


def read_recipe(recipe: Recipe) -> Quantize:
    """A recipe from itself, its patterns and formats, or its YAML file: the path or the content."""
    if isinstance(recipe, Quantize):
        return recipe
    if isinstance(recipe, str):
        return Quantize.load(recipe)
    if _is_content(recipe):
        # Of a file that a command line names, jsonargparse hands over the content.
        return Quantize(recipe["quantize"], **{k: v for k, v in recipe.items() if k != "quantize"})
    return Quantize(recipe)


def _is_content(recipe: Mapping[str, Any]) -> bool:
    """Whether it is what a recipe file holds, and not a pattern that happens to be ``quantize``."""
    inner = recipe.get("quantize")
    if not isinstance(inner, Mapping) or set(recipe) - {"quantize", *SETTINGS}:
        return False
    return not set(inner) <= set(ROLES)


class QuantizationAwareTraining(LayerSwapping, DeliversLater):
    """Train a LightningModule with rounded numbers.

    The module is quantised in place before its optimizers are made and its checkpoint is loaded, so
    that both have its learned scales. A module that is quantised already keeps what it learned and
    its masks. Layers must exist when the callback's ``setup`` is called, which is before the
    module's own ``setup`` and ``configure_model``. Where the Trainer launches its processes itself
    (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``), call ``prepare(module)`` before the fit. Where
    scales are learned and ``start`` is above 0, DDP needs ``find_unused_parameters=True``.

    With ``start`` above 0 no model from before rounding begins is chosen by its score: a
    ``ModelCheckpoint`` with a ``monitor`` keeps its latest files, of which none is the best, and
    ``EarlyStopping`` waits for nothing; both compare from the first value of their metric that is
    logged after that.

    Args:
        recipe: What to quantise, by names within the LightningModule: a recipe, its patterns and
            formats, or the path of its YAML file.
        start: Share of the Trainer's optimizer steps after which rounding begins, from 0 to below
            1. Validation within the fit rounds when training does; outside of it always. A layer
            that was switched off before (``enabled``) stays so.

    Raises:
        ValueError: If ``start`` is out of range; in ``fit``, if it is above 0 and the fit has no
            end, has no step left to be trained rounded, or was ended before rounding began (all
            that was to be saved is saved then), or if a callback before this one averages the
            weights.

    Warns:
        UserWarning: If the optimizer decays learned scales, or has none of them; see
            :func:`lightning_adls.parameter_groups`.

    Example:
        >>> callback = QuantizationAwareTraining({"*": "MXInt(width=4)"}, start=0.2)
        >>> trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    done_when = "rounding begins"

    def __init__(self, recipe: Recipe, start: float = 0.0) -> None:
        if not 0 <= start < 1:
            raise InputValueError(
                f"QuantizationAwareTraining: start={start} is not in 0 <= start < 1; it is the "
                "share of training that is not quantised."
            )
        super().__init__(later=start > 0)
        self.recipe = read_recipe(recipe)
        self.start = start
        self._continues_plain = False

    def prepare(self, module: nn.Module) -> None:
        """Quantise ``module`` in place, as ``setup`` does."""
        self.recipe(module)

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        return quantised_by(self.recipe)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Quantise the module.

        Raises:
            ValueError: If it has no such layers yet, if another callback made a copy of it before,
                to average its weights, or if this is a process that hands back weights alone.
        """
        super().setup(trainer, pl_module, stage)
        _wait(pl_module, stage == TrainerFn.FITTING and self.start > 0)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether what is continued rounded nothing. Sharded files do not say it."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        state = checkpoint.get("state_dict")
        self._continues_plain |= state is not None and not records_of(state)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a start that would never come; a resumed fit may be past it."""
        if self.start:
            self._check_start(trainer)
        warn_of_groups(self, trainer, pl_module)
        # A resumed fit may validate before its next batch, as its last batch would have had it.
        if self._continues_plain or self._is_early(trainer, batches_ago=1):
            self._forget_earlier(trainer)
        self._begin(trainer, pl_module, batches_ago=1)

    def _check_start(self, trainer: L.Trainer) -> None:
        _, total = progress_of(trainer)
        if not 0 < total < inf:
            raise InputValueError(
                f"QuantizationAwareTraining: start={self.start} is a share of a fit that has no "
                "end; set the Trainer's max_steps, or start=0."
            )
        if self.start * total > total - 1 and not is_dry(trainer):
            raise InputValueError(
                f"QuantizationAwareTraining: start={self.start} leaves none of the {total} steps "
                "of the fit to be trained rounded; give a smaller start, or train longer."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to round when it is time."""
        self._begin(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to deliver a model that rounds and was never trained so.

        Raises:
            ValueError: If the fit was ended before rounding began.
        """
        if self._unfinished and not is_dry(trainer):
            done, total = progress_of(trainer)
            raise InputValueError(
                f"QuantizationAwareTraining: training ended after {done:.0f} steps, before "
                f"rounding begins at step {ceil(self.start * total)} (start={self.start}); give a "
                "smaller start, or do not stop before it."
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave a module that rounds."""
        super().teardown(trainer, pl_module, stage)
        self._continues_plain = False
        _wait(pl_module, False)

    def _begin(self, trainer: L.Trainer, module: nn.Module, batches_ago: int = 0) -> None:
        if self.start:
            early = self._is_early(trainer, batches_ago)
            _wait(module, early)
            self._note(trainer, early)

    def _is_early(self, trainer: L.Trainer, batches_ago: int) -> bool:
        done, total = progress_of(trainer, batches_ago)
        return self.start > 0 and done < self.start * total


def is_dry(trainer: L.Trainer) -> bool:
    """Whether it takes a few steps to show that they work: what comes of them is of no use."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def quantised_by(recipe: Quantize) -> tuple[dict[str, bool], Sequence[str]]:
    """Whether a recipe quantises layers, by its patterns, and the kinds that it is about."""
    choices = {p: layer_formats(c) != LayerFormats() for p, c in recipe.layers.items()}
    return choices, recipe.kinds


def _wait(module: nn.Module, waiting: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, QuantizedLayer):
            layer.waiting = waiting

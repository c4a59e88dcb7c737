"""Training any LightningModule with rounded numbers."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_adls.callbacks.progress import progress_of
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.errors import InputValueError
from lightning_adls.layers import LayerFormats, QuantizedLayer
from lightning_adls.layers.layer_formats import ROLES
from lightning_adls.transforms.quantize import Quantize, layer_formats

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
    if not isinstance(inner, Mapping) or set(recipe) - {"quantize", "kinds", "backend"}:
        return False
    return not set(inner) <= set(ROLES)


class QuantizationAwareTraining(LayerSwapping):
    """Train a LightningModule with rounded numbers.

    The module is quantised in place before its optimizers are made and its checkpoint is loaded, so
    that both have its learned scales. A module that is quantised already keeps what it learned and
    its masks. Layers must exist when the callback's ``setup`` is called, which is before the
    module's own ``setup`` and ``configure_model``. Where the Trainer launches its processes itself
    (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``), call ``prepare(module)`` before the fit. Where
    scales are learned and ``start`` is above 0, DDP needs ``find_unused_parameters=True``.

    Args:
        recipe: What to quantise, by names within the LightningModule: a recipe, its patterns and
            formats, or the path of its YAML file.
        start: Share of the Trainer's optimizer steps after which rounding begins, from 0 to below
            1. Validation within the fit rounds when training does; outside of it always. A layer
            that was switched off before (``enabled``) stays so.

    Raises:
        ValueError: If ``start`` is out of range, or above 0 in a fit that has no end; in ``fit``,
            if a callback before this one averages the weights.

    Example:
        >>> callback = QuantizationAwareTraining({"*": "MXInt(width=4)"}, start=0.2)
        >>> trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(self, recipe: Recipe, start: float = 0.0) -> None:
        if not 0 <= start < 1:
            raise InputValueError(
                f"QuantizationAwareTraining: start={start} is not in 0 <= start < 1; it is the "
                "share of training that is not quantised."
            )
        self.recipe = read_recipe(recipe)
        self.start = start

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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a start that would never come; a resumed fit may be past it."""
        if self.start and not 0 < trainer.estimated_stepping_batches < inf:
            raise InputValueError(
                f"QuantizationAwareTraining: start={self.start} is a share of a fit that has no "
                "end; set the Trainer's max_steps, or start=0."
            )
        # A resumed fit may validate before its next batch, as its last batch would have had it.
        self._begin(trainer, pl_module, batches_ago=1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to round when it is time."""
        self._begin(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave a module that rounds."""
        _wait(pl_module, False)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave a module that rounds, of a fit that gets to no teardown."""
        self.teardown(trainer, pl_module, "fit")
        super().on_exception(trainer, pl_module, exception)

    def _begin(self, trainer: L.Trainer, module: nn.Module, batches_ago: int = 0) -> None:
        if self.start:
            done, total = progress_of(trainer, batches_ago)
            _wait(module, done < self.start * total)


def quantised_by(recipe: Quantize) -> tuple[dict[str, bool], Sequence[str]]:
    """Whether a recipe quantises layers, by its patterns, and the kinds that it is about."""
    choices = {p: layer_formats(c) != LayerFormats() for p, c in recipe.layers.items()}
    return choices, recipe.kinds


def _wait(module: nn.Module, waiting: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, QuantizedLayer):
            layer.waiting = waiting

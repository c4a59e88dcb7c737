"""Training any LightningModule with rounded numbers."""

from collections.abc import Mapping
from math import inf
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms.quantize import Quantize

Recipe = Quantize | Mapping[str, Any] | str


def read_recipe(recipe: Recipe) -> Quantize:
    """A recipe from itself, from its patterns and formats, or from the path of its YAML file."""
    if isinstance(recipe, Quantize):
        return recipe
    return Quantize.load(recipe) if isinstance(recipe, str) else Quantize(recipe)


class QuantizationAwareTraining(L.Callback):
    """Train a LightningModule with rounded numbers.

    The module is quantised in place before its optimizers are made and its checkpoint is loaded, so
    that both have its learned scales. A module that is quantised already keeps what it learned and
    its masks. Layers must exist when the callback's ``setup`` is called, which is before the
    module's own ``setup`` and ``configure_model``. Where scales are learned and ``start`` is above
    0, DDP needs ``find_unused_parameters=True``.

    Args:
        recipe: What to quantise, by names within the LightningModule: a recipe, its patterns and
            formats, or the path of its YAML file.
        start: Share of the Trainer's optimizer steps after which rounding begins, from 0 to below
            1. Validation within the fit rounds when training does; outside of it always. A layer
            that was switched off before (``enabled``) stays so.

    Raises:
        ValueError: If ``start`` is out of range, or above 0 in a fit that has no end.

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
        self._off: set[str] | None = None  # switched off by others; None if not set up

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Quantise the module."""
        self.recipe(pl_module)
        # By name, because other callbacks swap layers.
        self._off = {name for name, layer in _layers(pl_module) if not layer.enabled}
        self._enable(pl_module, stage != TrainerFn.FITTING or self.start == 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a start that would never come; a resumed fit may be past it."""
        if self.start and not 0 < trainer.estimated_stepping_batches < inf:
            raise InputValueError(
                f"QuantizationAwareTraining: start={self.start} is a share of a fit that has no "
                "end; set the Trainer's max_steps, or start=0."
            )
        # A resumed fit may validate before its next batch, as its last batch would have had it.
        self._begin(trainer, pl_module, trainer.global_step - 1)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out that rounding has not begun: steps decide in a resumed fit, and no one else."""
        for name, _ in _layers(pl_module):
            if self.start and name not in (self._off or ()):
                checkpoint["state_dict"].pop(f"{name}.enabled", None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to round when it is time."""
        self._begin(trainer, pl_module, trainer.global_step)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave a module that rounds."""
        self._enable(pl_module, True)
        self._off = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave a module that rounds, of a fit that gets to no teardown."""
        self.teardown(trainer, pl_module, "fit")

    def _begin(self, trainer: L.Trainer, module: nn.Module, steps: int) -> None:
        if self.start:
            self._enable(module, steps >= self.start * trainer.estimated_stepping_batches)

    def _enable(self, module: nn.Module, enabled: bool) -> None:
        if self._off is not None:
            for name, layer in _layers(module):
                if name not in self._off:
                    layer.enabled = enabled


def _layers(module: nn.Module) -> list[tuple[str, QuantizedLayer]]:
    return [(name, m) for name, m in module.named_modules() if isinstance(m, QuantizedLayer)]

"""The modules of single recipes, made of a supernet: what a search judges and what is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import lightning as L

from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.callbacks import check_metrics
from lightning_adls.callbacks.calibration import call_module
from lightning_adls.errors import InputValueError
from lightning_adls.supernet.batch_norm import recalibrate_batch_norm
from lightning_adls.supernet.switching import extract
from lightning_adls.transforms.quantize import Quantize

LightningT = TypeVar("LightningT", bound=L.LightningModule)


@dataclass(frozen=True)
class Subnetworks(Generic[LightningT]):
    """Makes the module of a recipe: the ``build`` of an :class:`Objective` that does not train.

    It can be pickled, so a search by worker processes sends the supernet to each worker once.

    Args:
        module: What :class:`SupernetTraining` has trained; not changed.
        batches: Training batches, on the device of the module, by which the statistics of batch
            normalisation are taken anew for each recipe
            (:func:`lightning_adls.supernet.recalibrate_batch_norm`). Without any they stay what
            they are on average over recipes.
        forward: Runs the module on a batch; see
            :func:`lightning_adls.callbacks.calibration.call_module` for the default.
        part: As that of :class:`SupernetTraining`.

    Example:
        >>> from lightning_adls.search import Budget, Objective
        >>> def objective(space, supernet, data, folder):
        ...     build = Subnetworks(supernet)
        ...     return Objective(space, build, data, Budget(), folder, train=False)
    """

    module: LightningT
    batches: Sequence[Any] = ()
    forward: Callable[[L.LightningModule, Any], Any] = call_module
    part: str = ""

    def __call__(self, recipe: Quantize) -> LightningT:
        """The module of a recipe; see :func:`lightning_adls.supernet.extract`.

        Raises:
            ValueError: As ``extract``.
        """
        module = extract(self.module, recipe, self.part)
        if self.batches:
            recalibrate_batch_norm(module, self.batches, partial(self.forward, module))
        return module


@dataclass(frozen=True)
class Finished(Generic[LightningT]):
    """A recipe that was trained alone at the end.

    Args:
        recipe: What is rounded.
        module: The trained module.
        value: Its metric, validated at the end.
    """

    recipe: Quantize
    module: LightningT
    value: float


def finish(
    subnetworks: Subnetworks[LightningT],
    recipes: Sequence[Quantize],
    data: L.LightningDataModule,
    budget: Budget,
    seed: int = 0,
    monitor: str = "val/accuracy",
    callbacks: Sequence[Callable[[], L.Callback]] = (),
) -> list[Finished[LightningT]]:
    """Train the few recipes that were chosen, each alone, from the weights that all had shared.

    All start from the same seed and see the same batches.

    Args:
        subnetworks: Make the modules.
        recipes: At least one.
        data: Prepared and set up here.
        budget: What each training may spend.
        seed: Of each training.
        monitor: The metric that is returned.
        callbacks: Each is called before each training, for a callback of its own.

    Raises:
        ValueError: If there is no recipe, a recipe does not suit the supernet, the budget cannot
            train one model after another, or the metric is not logged or NaN.
    """
    if not recipes:
        raise InputValueError("finish: recipes is empty; give those that are to be trained.")
    budget.check_repeatable()
    data.prepare_data()
    data.setup("fit")
    steps = batches_of(data)
    finished = []
    for recipe in recipes:
        L.seed_everything(seed, verbose=False)
        module = subnetworks(recipe)
        trainer = budget.trainer(steps, callbacks=[make() for make in callbacks])
        try:
            trainer.fit(module, datamodule=data)
            check_metrics(trainer, monitor)
        finally:
            release(trainer)
        value = float(trainer.callback_metrics[monitor])
        finished.append(Finished(recipe, module, value))
    return finished

"""Quantising any LightningModule by ranges that suit its data."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_adls.callbacks.launched import refuse_lost_layers
from lightning_adls.callbacks.order import refuse_copies_of_other_ranges
from lightning_adls.callbacks.quantization import Recipe, quantised_by, read_recipe
from lightning_adls.callbacks.scales import warn_of_groups
from lightning_adls.callbacks.sharding import refuse_sharded
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.devices import of_all_processes
from lightning_adls.errors import InputValueError
from lightning_adls.models.inputs import input_names, select
from lightning_adls.transforms.calibrate import calibrate, check_observer
from lightning_adls.transforms.quantize import Quantize, recipe_of


def call_module(module: L.LightningModule, batch: Any) -> Any:
    """Call the module with what its forward takes of a batch.

    Of a mapping these are the entries that the forward has names for (all with ``**kwargs``), or
    else the mapping itself; of a tuple or a list it is the first element.
    """
    if isinstance(batch, Mapping):
        inputs = select(batch, input_names(module.forward))
        if inputs and _callable_with(module.forward, inputs):
            return module(**inputs)
    return module(batch[0] if isinstance(batch, tuple | list) else batch)


def _callable_with(forward: Callable[..., Any], inputs: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(forward).bind(**inputs)
    except TypeError:  # one that is required is not there
        return False
    return True


class Calibration(LayerSwapping):
    """Choose the ranges of integer formats from training data, then quantise.

    When a fit starts, the module runs on a few training batches (see
    :func:`lightning_adls.transforms.calibrate.calibrate`) and is quantised by the recipe that comes
    out, in which it is then trained. ``validate``, ``test`` and ``predict`` of a module that was
    not fitted do the same, after its ``ckpt_path`` is loaded and with the training data of the
    datamodule: this is quantisation after training. Checkpoints hold the recipe; whoever loads one
    with a ``ckpt_path`` quantises by it, not by calibrating again. As with
    :class:`QuantizationAwareTraining`, layers must exist when ``setup`` is called.

    A datamodule with a method ``calibration_batches(count)``, such as :class:`TextData`, is asked
    for the batches, which are the same whatever was trained before. Of other data they are the
    first of the training dataloader, in the order that it has at the time.

    Under DDP every process observes the batches of all of them, which are what one process would
    have in larger batches, and all use the recipe of the first. Processes that the Trainer launches
    itself (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``) are refused: what they choose is lost.
    There, and with strategies that shard the model, call ``calibrate`` yourself and use
    :class:`QuantizationAwareTraining`.

    Args:
        recipe: What to quantise, and how; see :class:`QuantizationAwareTraining`.
        observer: "minmax", "percentile" or "mse"; see ``calibrate``.
        batches: Training batches to observe, at least 1.
        forward: Runs the module on a batch, which is on its device; see :func:`call_module` for
            what it does by default.

    Raises:
        ValueError: If ``observer`` or ``batches`` is wrong; in ``fit``, ``validate``, ``test`` and
            ``predict``, if there is no training data, or ``fit`` is to resume from a checkpoint
            that was not calibrated.

    Warns:
        UserWarning: As :class:`QuantizationAwareTraining` of learned scales.

    Attributes:
        recipe: The recipe that came out, with one entry for each layer; None before.
    """

    _instead = "calibrate the module before (lightning_adls.calibrate), without this callback"

    def __init__(
        self,
        recipe: Recipe,
        observer: str = "mse",
        batches: int = 8,
        forward: Callable[[L.LightningModule, Any], Any] = call_module,
    ) -> None:
        check_observer(observer, "Calibration")
        if batches < 1:
            raise InputValueError(f"Calibration: batches={batches} is below 1.")
        self.template = read_recipe(recipe)
        self.observer = observer
        self.batches = batches
        self.forward = forward
        self.recipe: Quantize | None = None
        self._module: L.LightningModule | None = None
        self._hook: RemovableHandle | None = None

    def prepare(self, module: nn.Module) -> None:
        """Quantise ``module`` in place, as ``setup`` does: by the recipe that is known so far."""
        (self.recipe or self.template)(module)

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        return quantised_by(self.template)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Quantise with ranges that are yet to be chosen, so that learned scales exist.

        Raises:
            ValueError: As of any callback that swaps layers; if they are yet to be chosen and
                weights are sharded.
        """
        if self._module is not None and self._module is not pl_module:
            self.recipe = None  # another module has other ranges
        self._module = pl_module
        if self.recipe is None:
            refuse_sharded("Calibration", trainer, self._instead)
        super().setup(trainer, pl_module, stage)
        # Also a checkpoint of weights alone, which has no state of callbacks, says its ranges.
        self._forget_hook()
        self._hook = pl_module.register_load_state_dict_pre_hook(self._take_recipe)

    def _take_recipe(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        recipe = None if prefix else recipe_of(state_dict)
        if recipe is None or recipe == recipe_of(module.state_dict()):
            return  # nothing that was not so before: perhaps it was never calibrated
        self.recipe = recipe
        recipe(module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module as any other."""
        self._forget_hook()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as any other, of a fit that gets to no teardown."""
        self._forget_hook()
        super().on_exception(trainer, pl_module, exception)

    def _forget_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def state_dict(self) -> dict[str, Any]:
        """The recipe as text."""
        if self.recipe is None:
            return {}
        return {
            "layers": self.recipe.to_dict(),
            "kinds": list(self.recipe.kinds),
            "backend": self.recipe.backend,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the recipe of a checkpoint."""
        self.recipe = Quantize(**state_dict)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate, unless that was done, and quantise.

        Raises:
            ValueError: If there is no training data, if an average of the module has other ranges
                or cannot take its masks, or if this is a process that hands back weights alone.
        """
        super().on_fit_start(trainer, pl_module)
        if self.recipe is None:
            self.recipe = self._calibrate(trainer, pl_module)
        if self._swap(pl_module):
            refuse_copies_of_other_ranges(trainer)
            refuse_lost_layers("Calibration", trainer, self._instead)

    # The weights of a checkpoint are loaded by then.
    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether the optimizer suits learned scales."""
        warn_of_groups(self, trainer, pl_module)

    def _calibrate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Quantize:
        data = _calibration_data(trainer, self.batches)
        same = isinstance(data, list)
        precision = trainer.precision_plugin

        def batches() -> Iterator[Any]:
            for batch, _, loader_idx in _of_all(islice(data, self.batches), same):
                batch = pl_module._on_before_batch_transfer(precision.convert_input(batch))
                yield trainer.strategy.batch_to_device(batch, dataloader_idx=loader_idx)

        def forward(batch: Any) -> None:
            with precision.forward_context():
                self.forward(pl_module, batch)

        # Training draws the numbers, and gets the batches, that it would without calibration.
        with isolate_rng():
            recipe = calibrate(pl_module, self.template, batches(), forward, self.observer)
            if data is trainer.fit_loop._data_fetcher:
                iter(data)  # the first epoch goes on with the iterator that it finds
        return trainer.strategy.broadcast(recipe)


def _of_all(batches: Iterable[Any], same: bool) -> Iterator[Any]:
    """The batches of all processes of a distributed run, unless all have the same anyway."""
    for batch in batches:
        yield from [batch] if same else of_all_processes(batch)


def _calibration_data(trainer: L.Trainer, count: int) -> Iterable[Any]:
    """Training batches, ``count`` or more, each with its index and that of its loader."""
    fitting = trainer.state.fn == TrainerFn.FITTING
    if fitting and trainer.ckpt_path is not None:
        raise InputValueError(
            f"Calibration: ckpt_path={str(trainer.ckpt_path)!r} is of a run without calibration; "
            "load its weights into the module and fit without ckpt_path."
        )
    # Not `trainer.datamodule`, which may be that of an earlier call.
    source: Any = trainer.fit_loop._data_source.instance
    if not fitting:
        if not isinstance(source, L.LightningDataModule):
            raise InputValueError(
                "Calibration: the Trainer has no training data to calibrate with; fit first, or "
                "pass a datamodule or the ckpt_path of a calibrated run."
            )
        source.setup("fit")
    if hasattr(source, "calibration_batches"):
        return [(batch, place, 0) for place, batch in enumerate(source.calibration_batches(count))]
    if not fitting:
        return CombinedLoader(source.train_dataloader(), "max_size_cycle")
    trainer.fit_loop.setup_data()
    # `trainer.train_dataloader` would not tell how several loaders are combined.
    return trainer.fit_loop._data_fetcher or ()

"""Training one copy of the weights for all recipes of a space."""

import functools
import json
import random as random_numbers
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from lightning_adls.callbacks.distillation import Distillation
from lightning_adls.callbacks.methods import wrap_method
from lightning_adls.callbacks.pruning import Pruning
from lightning_adls.callbacks.scales import warn_of_groups
from lightning_adls.callbacks.sharding import refuse_sharded
from lightning_adls.callbacks.swapping import LayerSwapping
from lightning_adls.distillation import check_temperature
from lightning_adls.errors import InputValueError
from lightning_adls.search.format_space import FormatSpace
from lightning_adls.supernet.in_place import InPlaceTeacher
from lightning_adls.supernet.recipes import choices_of, draw, largest, smallest
from lightning_adls.supernet.switching import Supernet, make_supernet
from lightning_adls.transforms.parameter_groups import learned_scales
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import part_of

_WHO = "SupernetTraining"


class SupernetTraining(LayerSwapping):
    """Train any LightningModule for all recipes of a space at once, on one copy of its weights.

    Each training batch is passed through the module once for each of a few recipes, and the mean of
    the losses is the loss of the step. By default these are the largest and the smallest recipe of
    the space and two at random, the sandwich rule (Yu and Huang 2019, arXiv:1903.05134, "The
    Sandwich Rule"). ``bounds=False, random=1`` is a single path drawn anew for each batch, the
    uniform sampling of Guo et al. 2020 (arXiv:1904.00420), at the price of an ordinary training.
    The graphs of all passes are in memory at the same time.

    Formats that learn scales have scales of their own in each layer; only those of the recipes that
    were drawn get gradients. :func:`lightning_adls.supernet.extract` takes the module of a recipe
    out, to be validated, searched over (:class:`lightning_adls.supernet.Subnetworks`) or trained on
    alone. With ``distill`` the largest recipe learns from the labels, and the others of the batch
    from its logits ("Inplace Distillation" of the same paper). Beside :class:`Distillation` each
    pass has its teacher instead, the module as it was before.

    The recipes of a batch depend on the seed and on the number of the batch alone, in all
    processes, and a fit that resumes goes on where it was. Validation within the fit and outside of
    it rounds by one recipe, and so does the module in the end.

    Layers must exist when the callback's ``setup`` is called; as with
    :class:`QuantizationAwareTraining`. DDP needs ``find_unused_parameters=True`` where scales are
    learned.

    Args:
        space: What each layer may choose.
        bounds: Whether the largest and the smallest recipe take part in each step.
        random: How many recipes are drawn at random for each batch, 0 or above.
        part: Name of the submodule that the names of the space are within, such as ``model``; by
            default the module.
        distill: Whether the largest recipe teaches the others; needs ``bounds``.
        temperature: Of its soft labels, above 0.
        network: Name of what gives the logits; see :class:`Distillation`.
        evaluate: By which recipe the module rounds when it is not trained.
        seed: Of what is drawn.

    Raises:
        ValueError: If an argument is out of range or no recipe takes part; in ``fit``, if the
            module is compiled, optimises by itself or recomputes activations and several recipes
            take part, the strategy shards weights or cannot do with unused parameters, another
            callback quantises, or ``ckpt_path`` is of a fit with other arguments.

    Warns:
        UserWarning: As :class:`QuantizationAwareTraining` of learned scales.

    Example:
        >>> widths = {"width": [2, 4, 8]}
        >>> space = FormatSpace.from_templates(["net.0", "net.2"], {"mx": "MXInt"}, widths)
        >>> callback = SupernetTraining(space)
        >>> [recipe.layers["net.0"].weight.width for recipe in callback.recipes(batch=0)][:2]
        [8, 2]
    """

    def __init__(
        self,
        space: FormatSpace,
        *,
        bounds: bool = True,
        random: int = 2,
        part: str = "",
        distill: bool = False,
        temperature: float = 1.0,
        network: str | None = None,
        evaluate: Literal["smallest", "largest"] = "smallest",
        seed: int = 0,
    ) -> None:
        if random < 0:
            raise InputValueError(f"{_WHO}: random={random} is below 0.")
        if not bounds and not random:
            raise InputValueError(f"{_WHO}: bounds=False and random=0 train nothing; raise random.")
        if distill and not (bounds and len({str(largest(space)), str(smallest(space))}) > 1):
            raise InputValueError(
                f"{_WHO}: distill=True has the largest recipe teach smaller ones; use bounds=True "
                "and a space of several."
            )
        check_temperature(temperature, _WHO)
        if evaluate not in ("smallest", "largest"):
            raise InputValueError(f"{_WHO}: evaluate={evaluate!r} is not 'smallest' or 'largest'.")
        self.space = space
        self.random = random
        self.part = part
        self.distill = distill
        self.temperature = temperature
        self.network = network
        self.seed = seed
        self._bounds = [largest(space), smallest(space)] if bounds else []
        self._evaluated = smallest(space) if evaluate == "smallest" else largest(space)
        self._supernet: Supernet | None = None
        self._batches = 0
        # Takes the wrapped training step away again.
        self._undo: Callable[[], None] | None = None

    def recipes(self, batch: int) -> list[Quantize]:
        """The recipes of a training batch, in the order of their passes.

        Args:
            batch: Its number since the beginning of the fit, from 0.
        """
        rng = random_numbers.Random(f"{self.seed}/{batch}")
        return [*self._bounds, *(draw(self.space, rng) for _ in range(self.random))]

    @property
    def _passes(self) -> int:
        return len(self._bounds) + self.random

    def prepare(self, module: nn.Module) -> None:
        """Prepare ``module`` in place, as ``setup`` does."""
        make_supernet(part_of(module, self.part, "supernet: part"), self.space)

    def _choices(self) -> tuple[Mapping[str, bool], Sequence[str]]:
        prefix = self.part and f"{escape(self.part)}."
        choices = choices_of(self.space).items()
        return {f"{prefix}{pattern}": each for pattern, each in choices}, self.space.kinds

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the module.

        Raises:
            ValueError: If a layer is missing or cannot be quantised, or what is trained would not
                have the layers, the strategy shards weights, or another callback quantises.
        """
        refuse_sharded(_WHO, trainer, "train on one device")
        self._refuse_others(trainer)
        super().setup(trainer, pl_module, stage)
        self._batches = 0
        self._supernet = Supernet(part_of(pl_module, self.part, "supernet: part"))
        self._supernet.switch(self._evaluated)

    def _refuse_others(self, trainer: L.Trainer) -> None:
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks:
            if isinstance(other, LayerSwapping) and not isinstance(
                other, SupernetTraining | Pruning
            ):
                raise InputValueError(
                    f"{_WHO}: callbacks has {type(other).__name__} as well, whose recipe would "
                    "take the place of all others; extract a recipe and train it on with that."
                )
            if self.distill and isinstance(other, Distillation):
                raise InputValueError(
                    f"{_WHO}: callbacks has Distillation as well, and a pass has one teacher; use "
                    "distill=False."
                )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether the module can be trained so."""
        super().on_fit_start(trainer, pl_module)
        name = type(pl_module).__name__
        if pl_module._compiler_ctx is not None:
            raise _compiled(pl_module)
        if self._passes > 1 and not pl_module.automatic_optimization:
            raise InputValueError(
                f"{_WHO}: {name} optimises by itself (automatic_optimization=False), once for each "
                "pass; use bounds=False, random=1."
            )
        if self._passes > 1 and any(
            getattr(part, "gradient_checkpointing", False) for part in pl_module.modules()
        ):
            raise InputValueError(
                f"{_WHO}: {name} recomputes activations in backward (gradient_checkpointing), when "
                "the last recipe is on; use bounds=False, random=1, or no checkpointing."
            )
        strategy = trainer.strategy
        if (
            isinstance(strategy, DDPStrategy)
            and learned_scales(pl_module)
            and not strategy._ddp_kwargs.get("find_unused_parameters", False)
        ):
            raise InputValueError(
                f"{_WHO}: a step uses the scales of some formats only; give the strategy "
                "find_unused_parameters=True ('ddp_find_unused_parameters_true')."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of learned scales that decay or are not trained."""
        warn_of_groups(self, trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch to the recipes of the batch."""
        assert self._supernet is not None
        recipes = self.recipes(self._batches)
        self._batches += 1
        self._supernet.switch(recipes[0])
        if self._undo is None:
            self._wrap(pl_module, self._supernet, recipes)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Leave the training step as it was between batches, for copies and checkpoints."""
        self._unwrap()

    def _wrap(
        self, module: L.LightningModule, supernet: Supernet, recipes: Sequence[Quantize]
    ) -> None:
        def training_step(step: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            # Now, because a module may compile its network when the first batch starts.
            _refuse_compiled(module)
            teacher = self._teacher(module)
            outputs = []
            for recipe in recipes:
                supernet.switch(recipe)
                one = functools.partial(step, *arguments, **named)
                outputs.append(one() if teacher is None else teacher.passed(one))
            return _mean_loss(outputs)

        self._undo = wrap_method(module, "training_step", training_step)

    def _teacher(self, module: L.LightningModule) -> InPlaceTeacher | None:
        if not self.distill:
            return None
        return InPlaceTeacher(module, self.network, self.temperature, _WHO)

    def _unwrap(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round by the recipe of evaluations."""
        super().on_validation_start(trainer, pl_module)
        self._evaluate()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round by the recipe of evaluations."""
        super().on_test_start(trainer, pl_module)
        self._evaluate()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round by the recipe of evaluations."""
        super().on_predict_start(trainer, pl_module)
        self._evaluate()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round by the recipe of evaluations."""
        self._evaluate()

    def _evaluate(self) -> None:
        assert self._supernet is not None
        self._supernet.switch(self._evaluated)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the training step as it was, of a fit that gets to no end."""
        self._unwrap()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave a module that rounds by the recipe of evaluations."""
        self._unwrap()
        self._supernet = None

    def state_dict(self) -> dict[str, Any]:
        """How many batches were drawn for, and what decides the recipes."""
        return {"batches": self._batches, "settings": self._settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the fit was that is resumed."""
        if state_dict["settings"] != self._settings():
            raise InputValueError(
                f"{_WHO}: the checkpoint was trained with {state_dict['settings']} and not with "
                f"{self._settings()}; give the same arguments."
            )
        self._batches = state_dict["batches"]

    def _settings(self) -> str:
        return json.dumps(
            {
                "space": self.space.to_dict(),
                "bounds": bool(self._bounds),
                "random": self.random,
                "seed": self.seed,
                "distill": [self.distill, self.temperature],
            }
        )


def _mean_loss(outputs: Sequence[Any]) -> Any:
    """What a training step returns, with the mean of the losses of several."""
    if len(outputs) == 1 or any(output is None for output in outputs):
        return outputs[-1] if len(outputs) == 1 else None
    losses = [each["loss"] if isinstance(each, Mapping) else each for each in outputs]
    loss: Tensor = torch.stack(losses).mean()
    last = outputs[-1]
    return {**last, "loss": loss} if isinstance(last, Mapping) else loss


def _refuse_compiled(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, OptimizedModule) or part._compiled_call_impl is not None:
            raise _compiled(part)


def _compiled(part: nn.Module) -> InputValueError:
    return InputValueError(
        f"{_WHO}: {type(part).__name__} is compiled, and each recipe would be compiled anew; train "
        "eagerly (compile=False), and compile what you extract."
    )

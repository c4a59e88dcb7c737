"""Lab 3's training for all recipes of a study at once, and the models that are taken out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lightning_adls.budget import Budget
from lightning_adls.callbacks import Distillation
from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.labs.task import NETWORK, Task
from lightning_adls.report import Row
from lightning_adls.search import FormatSpace
from lightning_adls.search.history import point_of
from lightning_adls.search.modes import Mode
from lightning_adls.search.values import rank_of
from lightning_adls.supernet import SupernetTraining, extract, make_supernet
from lightning_adls.transforms import Quantize
from lightning_adls.weights import save_weights


@dataclass(frozen=True)
class OneShot:
    """What one training for all recipes may spend, and the search that follows it.

    Args:
        budget: Of the shared training.
        distill: Whether it is also taught by the float32 start.
        evaluations: Recipes that are judged by its weights, without a training of theirs.
        finish: How many of the best are then trained alone.

    Raises:
        InputValueError: If there are no evaluations, or nothing is finished.
    """

    budget: Budget = field(default_factory=Budget)
    distill: bool = True
    evaluations: int = 30
    finish: int = 3

    def __post_init__(self) -> None:
        for name in ("evaluations", "finish"):
            if getattr(self, name) < 1:
                raise InputValueError(f"one_shot: {name}={getattr(self, name)} is below 1.")

    def check(self, task: Task) -> None:
        """Refuse a task that cannot be trained for all recipes, before any work.

        Raises:
            InputValueError: If its modules are compiled, or there would be two teachers.
        """
        if compiled := task.build().hparams["compile"]:
            raise InputValueError(
                f"one_shot: classifier.compile={compiled} would compile each recipe anew, and "
                "strategy=one_shot trains them all in one module; use --classifier.compile false."
            )
        if self.distill and any(isinstance(make(), Distillation) for make in task.callbacks):
            raise InputValueError(
                "one_shot: distill=True and Distillation of callbacks are two teachers of one "
                "training; give --one_shot.distill false, or leave it out of --callbacks."
            )

    def train(self, task: Task, space: FormatSpace, folder: Path, step: str, kept: Path) -> Row:
        """Train for all recipes of a space, from the starting weights: the work of a step.

        Args:
            task: Makes the module.
            space: By names of layers within the network.
            folder: Of the curves.
            step: Name of the training.
            kept: Where the weights go.

        Returns:
            What :meth:`Task.train` does, of the smallest recipe.
        """
        callbacks = [SupernetTraining(space, part=NETWORK, seed=task.seed)]
        taught = [Distillation()] if self.distill else []
        module = task.build()
        found = task.train(module, self.budget, folder, step, [*taught, *callbacks])
        save_weights(module, kept)
        return {**found, "checkpoint": str(kept)}


@dataclass(frozen=True)
class SharedWeights:
    """Makes the module of a recipe from weights that were trained for all of them.

    Args:
        task: Makes modules.
        space: What it was trained for.
        path: Where the weights are.
    """

    task: Task
    space: FormatSpace
    path: Path

    def __call__(self, recipe: Quantize) -> TextClassifier:
        """The module that :meth:`Task.build` makes, with the weights and scales of the recipe."""
        module = self.task.build(recipe)
        module.load_state_dict(extract(self._shared, recipe, NETWORK).state_dict())
        return module

    def __getstate__(self) -> dict[str, Any]:
        """A worker reads the weights itself."""
        return {"task": self.task, "space": self.space, "path": self.path}

    @cached_property
    def _shared(self) -> TextClassifier:
        module = self.task.build()
        make_supernet(module.model, self.space)
        module.load_weights(self.path)
        return module


def best_of(trials: Sequence[FrozenTrial], count: int, mode: Mode) -> list[dict[str, Any]]:
    """The parameters of the best trials, the best first; of equals the one of the fewest bits."""

    def place(trial: FrozenTrial) -> tuple[float, ...]:
        value, *costs = trial.values
        bits, index = trial.user_attrs["bits_per_weight"], trial.user_attrs["index"]
        return rank_of([value, *costs, bits], index, mode)

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=place, reverse=True)
    points = {point_of(trial.params): trial.params for trial in ranked}
    return list(points.values())[:count]

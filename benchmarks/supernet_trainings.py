"""What supernet.py trains and judges. Each training that has ended is kept, and not done again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from lightning_adls import Quantize, TextClassifier
from lightning_adls.budget import Budget
from lightning_adls.labs.classified import right
from lightning_adls.labs.task import Task
from lightning_adls.report import write_json
from lightning_adls.search import FormatSpace
from lightning_adls.supernet import SupernetTraining, extract, make_supernet
from lightning_adls.weights import save_weights


@dataclass(frozen=True)
class Judged:
    """How a recipe does.

    Args:
        right: Whether it was right, by the number of the row.
        seconds: Of its training and validation; of a recipe that is taken out of the shared
            training, of the validation alone. See :attr:`Trainings.clock`.
    """

    right: Mapping[int, bool]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the rows that it was right on."""
        return sum(self.right.values()) / len(self.right)


@dataclass
class Trainings:
    """One training for all recipes and those of single recipes, all from the same start.

    Args:
        task: The data and the network.
        space: Of the recipes.
        callback: Of the shared training.
        finetune: Budget of the training in full precision that all start from.
        shared: Budget of the training for all recipes.
        alone: Budget of a training of one recipe.
        test: Whether recipes are judged on the test split; seconds are those of validations.
        folder: Has what was found before with the same arguments.
    """

    task: Task
    space: FormatSpace
    callback: SupernetTraining
    finetune: Budget
    shared: Budget
    alone: Budget
    test: bool
    folder: Path

    def start(self) -> None:
        """Let all trainings start from the fine-tuned weights."""
        path, module = self.folder / "start.ckpt", self.task.build()
        if path.exists():
            module.load_weights(path)
        else:
            self._train(module, self.finetune)
            save_weights(module, path)
        self.task.start_from(module)

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of the processor, which other programs do not lengthen much; else of the day."""
        return process_time if self.alone.accelerator == "cpu" else perf_counter

    @cached_property
    def supernet(self) -> tuple[TextClassifier, float]:
        """What was trained for all recipes, and the seconds that it took."""
        path, told = self.folder / "supernet.ckpt", self.folder / "supernet.json"
        module = self.task.build()
        if told.exists():
            make_supernet(module.model, self.space)
            module.load_weights(path)
        else:
            seconds = self._train(module, self.shared, self.callback)
            save_weights(module, path)
            write_json(told, {"seconds": seconds})
        return module, float(json.loads(told.read_text())["seconds"])

    def taken_out(self, recipe: Quantize) -> Judged:
        """A recipe with the weights of the shared training."""
        path = self._path("taken_out", recipe)
        if not path.exists():
            began = self.clock()
            module = extract(self.supernet[0], recipe, "model")
            self.task.validate(module, self.alone, path.with_suffix(".val.csv"))
            self._keep(path, recipe, self.clock() - began, module)
        return self._kept(path)

    def trained_alone(self, recipe: Quantize) -> Judged:
        """A recipe with weights of its own."""
        path = self._path("alone", recipe)
        if not path.exists():
            module = self.task.build(recipe)
            seconds = self._train(module, self.alone, answers=path.with_suffix(".val.csv"))
            self._keep(path, recipe, seconds, module)
        return self._kept(path)

    def is_trained(self, recipe: Quantize) -> bool:
        """Whether a recipe was trained alone already."""
        return self._path("alone", recipe).exists()

    def _train(self, module: TextClassifier, budget: Budget, *callbacks: Any, **more: Any) -> float:
        # Of this folder nothing is left: the task has no loggers.
        began = self.clock()
        self.task.train(module, budget, self.folder / "curves", "", callbacks, **more)
        return self.clock() - began

    def _path(self, way: str, recipe: Quantize) -> Path:
        return self.folder / way / f"{digest(recipe.to_dict())}.json"

    def _keep(self, path: Path, recipe: Quantize, seconds: float, module: TextClassifier) -> None:
        if self.test:
            self.task.test(module, self.alone, path.with_suffix(".test.csv"))
        # Last, because it says that all is there.
        write_json(path, {"recipe": recipe.to_dict(), "seconds": seconds})

    def _kept(self, path: Path) -> Judged:
        answers = right(path.with_suffix(".test.csv" if self.test else ".val.csv"))
        assert answers is not None
        return Judged(answers, float(json.loads(path.read_text())["seconds"]))


def digest(content: Any) -> str:
    """A name for what can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

"""A run whose steps leave models behind: trained, validated, and tested once."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.labs import concerns
from lightning_adls.labs.classified import flips_between
from lightning_adls.labs.run import Run
from lightning_adls.labs.task import Task, digest_of
from lightning_adls.labs.training_bar import TellsProgress, TrainingBar
from lightning_adls.report import Row
from lightning_adls.transforms import Transform, costs
from lightning_adls.transforms.configs import describe, read
from lightning_adls.weights import save_weights

START = "start"
# Called after a step that was not done before, with its name and its row.
Listener = Callable[[str, Row], object]


class ModelRun(Run):
    """A :class:`Run` of a :class:`Task`.

    The row of a step whose model is kept has the ``checkpoint`` and the ``transforms`` that the
    network needs before the checkpoint is loaded; :meth:`module` makes the model from them.

    Args:
        lab: See :class:`Run`.
        name: See :class:`Run`.
        config_yaml: See :class:`Run`.
        task: What the models have in common.
        passing: See :class:`Run`.

    Attributes:
        listeners: Called after each step that is done now.
    """

    def __init__(
        self,
        lab: str,
        name: str,
        config_yaml: str,
        task: Task,
        *,
        passing: Collection[str] = (),
    ) -> None:
        weights = None if task.weights is None else digest_of(task.weights)
        super().__init__(lab, name, config_yaml, passing=passing, weights=weights)
        self.task = task
        self.listeners: list[Listener] = []
        self._start: list[str] = []

    def done(self, name: str, row: Row, seconds: float, before: Collection[str] = ()) -> None:
        """As :meth:`Run.done`, with the flips against the start; then the listeners are told."""
        super().done(name, {**row, **self._flips(name)}, seconds, before)
        for listener in self.listeners:
            listener(name, self.rows[name])

    def _flips(self, name: str) -> Row:
        """Validation rows that a step's model answers otherwise than the start, where known."""
        if not self._start or name in self._start:
            return {}
        return flips_between(self.answers("val", self._start[0]), self.answers("val", name))

    def __getstate__(self) -> dict[str, Any]:
        """A worker is told nothing, and shows nothing."""
        return {**super().__getstate__(), "listeners": []}

    def start(self, budget: Budget, step: str = START) -> Row:
        """The step that everything starts from; :meth:`Task.build` takes its weights from now on.

        They are those of the task's checkpoint, or of its fine-tune in full precision, or else
        those that the network came with.

        Args:
            budget: In whose precision they are judged.
            step: Name of the step.
        """
        task = self.task

        def work() -> Row:
            module, seconds = task.build(), None
            if task.finetune is not None and task.weights is None:
                epochs = task.finetune.epochs
                much = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
                print(f"{step}: {much} in full precision ...", flush=True)
                bar = TrainingBar(step)
                found = task.train(module, task.finetune, self.curves, step, [bar])
                seconds = found["seconds"]
            return {**self.judge(step, module, budget), "seconds": seconds}

        self._start = [step]  # listeners may ask what is kept
        row = self.step(step, work)
        concerns.say(concerns.about_data(task.texts))
        if task.finetune is not None or task.weights is not None:
            counts = task.texts.class_counts("val")
            concerns.say(concerns.about_start(row["accuracy"], counts))
        task.start_from(self.module(step))
        return row

    def keep(self, steps: Iterable[str]) -> None:
        """As :meth:`Run.keep`; the start of everything is always kept."""
        super().keep([*self._start, *steps])

    @property
    def curves(self) -> Path:
        """Folder of the trainings' curves."""
        return self.folder / "trials"

    def train(
        self,
        step: str,
        module: TextClassifier,
        budget: Budget,
        transforms: Sequence[Transform] = (),
        callbacks: Sequence[L.Callback] = (),
    ) -> Row:
        """The work of a step: train a model, validate it and keep its weights.

        Args:
            step: Name of the step.
            module: From ``task.build(*transforms)``.
            budget: What the training may spend.
            transforms: What a fresh network needs before the weights are loaded.
            callbacks: Beside those of the task.
        """
        answers = self.answers("val", step)
        # Workers would draw over each other.
        told = self.channel if self.copied else None
        shown = TrainingBar(step) if told is None else TellsProgress(told)
        found = self.task.train(module, budget, self.curves, step, [*callbacks, shown], answers)
        save_weights(module, self.checkpoint(step))
        return {**found, **self._about(step, module, transforms)}

    def judge(
        self,
        step: str,
        module: TextClassifier,
        budget: Budget,
        transforms: Sequence[Transform] = (),
    ) -> Row:
        """The work of a step: validate a model as it is and keep its weights."""
        accuracy = self.task.validate(module, budget, self.answers("val", step))
        save_weights(module, self.checkpoint(step))
        return {"accuracy": accuracy, **self._about(step, module, transforms)}

    def test(self, step: str, budget: Budget) -> float:
        """Accuracy of a step's model on the test split, which is read once: a step of its own."""
        row = self.step(
            f"test/{step}",
            lambda: self.task.test(self.module(step), budget, self.answers("test", step)),
        )
        val = self.rows[step]["accuracy"]
        concerns.say(concerns.about_test(step, val, row["accuracy"], self.task.texts))
        return float(row["accuracy"])

    def module(self, step: str) -> TextClassifier:
        """The model that a step left behind.

        Raises:
            InputValueError: If its checkpoint is gone.
        """
        path = self.checkpoint(step)
        if not path.is_file():
            raise InputValueError(
                f"Run: {path} is gone, the model of the step {step!r}; bring it back, or give "
                "another --run."
            )
        module = self.task.build(*self.transforms_of(step))
        module.load_weights(path)
        return module

    def transforms_of(self, step: str) -> list[Transform]:
        """What a fresh network needs before the weights of the step's model are loaded."""
        return [read(description) for description in self.rows[step]["transforms"]]

    def _about(
        self, step: str, module: TextClassifier, transforms: Sequence[Transform] = ()
    ) -> Row:
        """What the row of a step says of its model."""
        return {
            **costs(module.model),
            "transforms": [describe(transform) for transform in transforms],
            "checkpoint": str(self.checkpoint(step).relative_to(self.folder)),
        }

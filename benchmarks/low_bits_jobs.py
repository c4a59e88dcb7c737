"""What low_bits.py computes: a fine-tuning per seed, scores for plans, and a training per row."""

import hashlib
import json
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from low_bits_one_shot import picked, space_of
from low_bits_rows import BUDGETS, ROWS, WIDTHS, formats_of_width
from torch import Tensor

from lightning_adls import Quantize, Scores, TextClassifier, TextData, bert, plan, sensitivity
from lightning_adls.budget import Budget, release
from lightning_adls.callbacks import Distillation
from lightning_adls.engines import Channel
from lightning_adls.labs.classified import Answers, Collecting
from lightning_adls.labs.task import Task
from lightning_adls.supernet import SupernetTraining
from lightning_adls.transforms import costs
from lightning_adls.weights import save_weights

# Jobs that leave something for others, and those that they need themselves.
START, SCORES, SHARED, PICKED = "start", "scores", "shared", "picked"
NEEDS = {START: (), SCORES: (START,), SHARED: (START,), PICKED: (SHARED,)}
# The network that is trained where no checkpoint is given.
TINY = Path(__file__).parents[1] / "configs" / "model" / "tiny.yaml"
# Training batches that recipes are judged by, and rows of each that layers are scored on.
JUDGED_BATCHES, SCORED_ROWS = 4, 32


@dataclass(frozen=True)
class Job:
    """What one process computes at a time.

    Args:
        data: Name of the data set.
        seed: Of the head, the order of the data and the dropout.
        row: A name of ``ROWS``, or what rows need: ``start``, the fine-tuning in float32;
            ``scores``, for plans; ``shared``, the training for all recipes; ``picked``, those of
            them that a search finds.
        distilled: Whether the loss also has the start for a teacher.
    """

    data: str
    seed: int
    row: str
    distilled: bool = False

    def __str__(self) -> str:
        return f"{self.data} {self.row}{' distilled' * self.distilled} seed {self.seed}"

    @property
    def is_row(self) -> bool:
        """Whether it is of the table, and not one that leaves something for those that are."""
        return self.row not in NEEDS

    def of(self, name: str) -> "Job":
        """The job of that name for the same data and seed."""
        return Job(self.data, self.seed, name)

    @property
    def starts_from(self) -> "Job | None":
        """The job whose weights it starts from."""
        if self.row == START:
            return None
        one_shot = self.row == PICKED or (self.is_row and ROWS[self.row].picked_bits is not None)
        return self.of(SHARED if one_shot else START)

    @property
    def needs(self) -> tuple["Job", ...]:
        """Jobs whose files it reads."""
        if not self.is_row:
            return tuple(map(self.of, NEEDS[self.row]))
        row = ROWS[self.row]
        names = [START]
        names += [SCORES] * (row.planned_bits is not None)
        names += [SHARED, PICKED] * (row.picked_bits is not None)
        return tuple(map(self.of, names))


@dataclass(frozen=True)
class Training:
    """How one data set is trained on.

    Args:
        data: Arguments of ``TextData``.
        model: A BERT to start from: a folder or a name on the hub. None makes a small new one.
        start_epochs: Of the fine-tuning in float32.
        epochs: Of each row after that.
        learning_rate: Peak of the schedule, of both.
        batch_size: Rows of a training batch.
        limit: Most rows of each split; None for all.
    """

    data: Mapping[str, Any]
    model: str | None
    start_epochs: float
    epochs: float
    learning_rate: float
    batch_size: int
    limit: int | None

    def decides(self, job: Job) -> dict[str, Any]:
        """What a job's result depends on."""
        training = vars(self) | ({"epochs": None} if job.row in (START, SCORES) else {})
        return {"job": vars(job), "training": training}


@dataclass(frozen=True)
class Settings:
    """What all jobs share: where files are left, and how each data set is trained on."""

    folder: Path
    trainings: Mapping[str, Training]

    def file(self, job: Job) -> Path:
        """What a job leaves for others: weights, or scores."""
        told = json.dumps(self.trainings[job.data].decides(job), sort_keys=True)
        name = f"{job.data}-{job.seed}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        return self.folder / job.row / f"{name}{'.pt' if job.row in (START, SHARED) else '.json'}"


def compute(settings: Settings, job: Job, _: Channel) -> dict[str, Any]:
    """What a job found, or its ``error``: it does not stop the others."""
    try:
        steps = {START: start, SCORES: score, SHARED: share, PICKED: pick}
        return steps.get(job.row, train)(settings, job)
    except Exception:
        return {"error": traceback.format_exc()}


def task_of(settings: Settings, job: Job) -> Task:
    """Data and network of a job, with the weights that it starts from."""
    training = settings.trainings[job.data]
    data = partial(
        TextData,
        **training.data,
        batch_size=training.batch_size,
        eval_batch_size=4 * training.batch_size,
        limit_train=training.limit,
        limit_val=training.limit,
        limit_test=training.limit,
    )
    known: dict[str, Any] = {"checkpoint": training.model}
    if training.model is None:
        known = yaml.safe_load(TINY.read_text(encoding="utf-8"))["init_args"]
    classifier = partial(TextClassifier, learning_rate=training.learning_rate)
    weights = None if job.starts_from is None else settings.file(job.starts_from)
    return Task(
        data, partial(bert, **known), classifier, seed=job.seed, weights=weights, loggers=()
    )


def start(settings: Settings, job: Job) -> dict[str, Any]:
    """Fine-tune in float32, and leave the weights."""
    task = task_of(settings, job)
    module = task.build()
    found = fit(task, module, settings.trainings[job.data].start_epochs)
    save_weights(module, settings.file(job))
    return found


def score(settings: Settings, job: Job) -> dict[str, Any]:
    """Score each layer in each width, and leave the scores."""
    task = task_of(settings, job)
    module = on_device(task.build())
    batches = [
        {name: tensor[:SCORED_ROWS] for name, tensor in batch.items()}
        for batch in training_batches(task, module)
    ]
    scores = sensitivity(module, batches, [formats_of_width(width) for width in WIDTHS])
    path = settings.file(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.save(path)
    return {"samples": scores.samples}


def share(settings: Settings, job: Job) -> dict[str, Any]:
    """Train one copy of the weights for all recipes, and leave them unrounded."""
    task = task_of(settings, job)
    module, plain = task.build(), task.build()
    training = SupernetTraining(space_of(module), random=1, seed=job.seed)
    found = fit(task, module, settings.trainings[job.data].epochs, [training])
    state = module.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    save_weights(plain, settings.file(job))
    return found


def pick(settings: Settings, job: Job) -> dict[str, Any]:
    """Search for a recipe within each budget, and leave them."""
    task = task_of(settings, job)
    module = on_device(task.build())
    batches = training_batches(task, module)
    recipes = {str(bits): picked(module, batches, bits, job.seed).to_dict() for bits in BUDGETS}
    path = settings.file(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(recipes, indent=1), encoding="utf-8")
    part.replace(path)
    return {}


def on_device(module: TextClassifier) -> TextClassifier:
    """The module, on a GPU if there is one."""
    return module.to("cuda" if torch.cuda.is_available() else "cpu")


def training_batches(task: Task, module: TextClassifier) -> list[dict[str, Tensor]]:
    """A few training batches, where the module is."""
    return [
        {name: tensor.to(module.device) for name, tensor in batch.items()}
        for batch in task.texts.calibration_batches(JUDGED_BATCHES)
    ]


def train(settings: Settings, job: Job) -> dict[str, Any]:
    """Train a row on from the fine-tuned weights, and read both splits once."""
    task = task_of(settings, job)
    module = task.build()
    recipe = recipe_of(settings, job, module)
    if recipe is not None:
        recipe(module)
    teacher = []
    if job.distilled:
        fine_tuned = task.build()
        fine_tuned.load_weights(settings.file(job.of(START)))
        teacher = [Distillation(fine_tuned, hidden=1.0)]
    found = fit(task, module, settings.trainings[job.data].epochs, teacher)
    answers = tested(task, module)
    right = [answer.label == answer.predicted for answer in answers.values()]
    return {
        **found,
        **costs(module.model),
        "recipe": None if recipe is None else {n: str(f) for n, f in recipe.layers.items()},
        "test_accuracy": sum(right) / len(right),
        "test_right": "".join("01"[each] for each in right),
    }


def recipe_of(settings: Settings, job: Job, module: TextClassifier) -> Quantize | None:
    """What the layers of a row are rounded to, by their names within the module."""
    row = ROWS[job.row]
    if row.planned_bits is not None:
        scores = Scores.load(settings.file(job.of(SCORES)))
        candidates = [formats_of_width(width) for width in WIDTHS]
        return plan(module, scores, candidates, bits_per_weight=row.planned_bits).recipe
    if row.picked_bits is not None:
        recipes = json.loads(settings.file(job.of(PICKED)).read_text(encoding="utf-8"))
        return Quantize(recipes[str(row.picked_bits)])
    return None if row.formats is None else Quantize({"*": row.formats})


def fit(
    task: Task, module: TextClassifier, epochs: float, callbacks: Sequence[L.Callback] = ()
) -> dict[str, Any]:
    """Train in float32 arithmetic and validate once, in the end."""
    with tempfile.TemporaryDirectory() as folder:
        found = task.train(module, budget(epochs), Path(folder), "row", callbacks)
    return {
        "seconds": found["seconds"],
        "val_accuracy": found["accuracy"],
        "val_rows": task.texts.row_counts["val"],
    }


def tested(task: Task, module: TextClassifier) -> Answers:
    """What the module says of each test row, by the row's number."""
    collecting = Collecting(Path())
    trainer = budget(1).trainer(1, callbacks=[collecting])
    trainer.test(module, datamodule=task.texts, verbose=False)
    release(trainer)
    return collecting.answers


def budget(epochs: float) -> Budget:
    """Of a training. Formats are compared in float32, whatever the machine is fast in."""
    return Budget(epochs=epochs, reports=1, precision="32-true")

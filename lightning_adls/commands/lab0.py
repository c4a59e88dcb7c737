"""Lab 0: fine-tune a BERT in full, then by low-rank adapters (LoRA) from the same start.

Prints what it runs on and what the model consists of, trains both ways, merges the adapters into
the weights and shows that the logits stay the same. Run:

    adls lab0
    adls lab0 --lora.rank 4 --lora.layers '["*.query"]' --run rank4
    adls lab0 --config configs/lab0_imdb.yaml --run imdb

The same command continues an interrupted run and repeats nothing that is done.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from lightning_adls import report
from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.commands.table import defaults_of
from lightning_adls.data import TextData
from lightning_adls.engines import Ray
from lightning_adls.events import write_run
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.computing import EngineName, computing_by
from lightning_adls.labs.describe import describe
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.labs.model_run import START, ModelRun
from lightning_adls.labs.rows.steps import lab0
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.tables import in_words, table
from lightning_adls.labs.task import TASK_ARGUMENTS, Task
from lightning_adls.labs.tensorboard import OVERVIEW, TensorBoard, shown, write_row
from lightning_adls.models import NetworkFactory
from lightning_adls.remaining import Remaining
from lightning_adls.report import Row
from lightning_adls.transforms import Transform
from lightning_adls.transforms.lora import LoRA, freeze, merge_lora, parameter_counts

COLUMNS = {
    "model": ("model", ""),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
    "trainable": ("trainable", ",d"),
    "parameters": ("parameters", ",d"),
    "seconds": ("s", ".1f"),
}
# Largest difference of a logit over the largest logit. Merging changes only the order of float32
# sums, by about 1e-6; an adapter that is lost or scaled wrongly changes the second digit.
TOLERANCE = 1e-4
STEPS = ("full", "lora", "merged")
BY_STEP = "accuracy/by_step"
LAYOUT = {"Full fine-tuning and LoRA": {"validation accuracy by training step": [BY_STEP]}}
console = Console()


def run_lab(
    config_yaml: str,
    data: Callable[..., TextData],
    model: NetworkFactory,
    classifier: Callable[..., TextClassifier],
    lora_classifier: Callable[..., TextClassifier],
    lora: LoRA,
    budget: Budget,
    lora_budget: Budget,
    frozen: list[str],
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    ray: Ray,
    tensorboard: TensorBoard | None = None,
    pretraining: Budget | None = None,
    seed: int = 0,
    engine: EngineName | None = None,
    workers: int = 1,
    run: str = "default",
) -> None:
    """Fine-tune a BERT in full, then by low-rank adapters (LoRA) from the same start.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The network: a checkpoint or dimensions.
        classifier: How it is trained in full.
        lora_classifier: How the adapters are trained; they take a higher learning rate.
        lora: The adapters.
        budget: What the full fine-tune may spend.
        lora_budget: What the training of the adapters may spend.
        frozen: Shell patterns of parameters that the full fine-tune leaves as they are, such as
            ``bert.embeddings.*``. (With adapters the whole base is frozen.)
        callbacks: Of Lightning, for each training.
        logger: Lightning's loggers, for each training.
        tensorboard: What is written for TensorBoard besides; null for nothing.
        pretraining: Budget of a training, by ``classifier``, of the model that both start from.
            Adapters need a base that has learned something, which random weights have not.
        seed: Of everything.
        engine: Who computes: serial (this process), processes (of this machine) or ray (a
            cluster); by default serial for one worker, and processes for more.
        workers: How many trainings run at a time.
        ray: The cluster of the engine ray, and what each of its workers gets.
        run: Name of the folder in lightning_logs/lab0.
    """
    computing = computing_by(engine, workers, ray, budget)
    task = Task(
        data,
        model,
        classifier,
        seed=seed,
        budgets=[budget, lora_budget],
        callbacks=callbacks,
        loggers=logger,
        finetune=pretraining,
    )
    plain = task.build()
    freeze(plain.model, frozen)
    task.build(lora, classifier=lora_classifier)  # refuses wrong patterns
    with computing, ModelRun("lab0", run, config_yaml, task) as lab:
        described = describe(console, plain.model, task.texts.max_length)["model"]
        remaining = Remaining()
        spent = 0.0 if pretraining is None else pretraining.epochs
        epochs = {START: spent, "full": budget.epochs, "lora": lora_budget.epochs, "merged": 0.0}
        lab.listeners += [
            lambda name, row: show_step(lab, name, row, remaining, epochs),
            lambda *_: write(lab, described),
        ]
        if tensorboard is not None:
            lab.listeners += [lambda *_: write_page(tensorboard, lab)]
        lab.plan([START, *STEPS, "test/full", "test/merged"])
        lab.start(budget)

        for step in STEPS:
            if step in lab.rows:
                console.print(f"{step}: done already")
        lab.steps(
            {
                "full": partial(full, frozen=frozen, budget=budget),
                "lora": partial(adapters, lora=lora, make=lora_classifier, budget=lora_budget),
            },
            computing,
            console=console,
        )
        lab.step("merged", partial(merge, lab, lora_budget))
        lab.keep(STEPS)
        # The test split is read last, for the models that are done.
        lab.test("full", budget)
        lab.test("merged", lora_budget)
        write(lab, described)  # once more, because a call that was killed may not have come to it
        if tensorboard is not None:
            write_page(tensorboard, lab)
    console.print(table("Fine-tuning", lab0(lab), COLUMNS))
    console.print(f"Figures, table and checkpoints: {lab.folder}", soft_wrap=True)


def show_step(
    lab: ModelRun, name: str, row: Row, remaining: Remaining, epochs: Mapping[str, float]
) -> None:
    """Print what a step found, and how many models are left; they take as long as their epochs."""
    if "checkpoint" in row:
        left = {model: each for model, each in epochs.items() if model not in lab.rows}
        done = len(epochs) - len(left)
        far = remaining.after_one(done, len(epochs), epochs[name], sum(left.values()))
        reached = in_words(row["accuracy"], lab.task.texts.row_counts["val"])
        console.print(f"{name}: val acc. {reached}; {far}", highlight=False)


class ValidationCurve(L.Callback):
    """Keeps the accuracy of each validation by the number of steps."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the accuracy that was just logged."""
        self.points.append((trainer.global_step, float(trainer.callback_metrics["val/accuracy"])))


def full(lab: ModelRun, frozen: list[str], budget: Budget) -> Row:
    """Train all parameters but those that stay frozen."""
    module = lab.task.build()
    freeze(module.model, frozen)
    return train(lab, "full", module, budget, [])


def adapters(lab: ModelRun, lora: LoRA, make: Callable[..., TextClassifier], budget: Budget) -> Row:
    """Train adapters alone."""
    return train(lab, "lora", lab.task.build(lora, classifier=make), budget, [lora])


def train(
    lab: ModelRun, step: str, module: TextClassifier, budget: Budget, transforms: list[Transform]
) -> Row:
    """Train, and keep the curve for the figure."""
    curve = ValidationCurve()
    row = lab.train(step, module, budget, transforms, [curve])
    return {**row, **parameter_counts(module)._asdict(), "curve": curve.points}


def merge(lab: ModelRun, budget: Budget) -> Row:
    """Merge the trained adapters, compare the logits, and judge what a plain model loads.

    Raises:
        ArithmeticError: If the logits differ by more than rounding.
    """
    module = lab.module("lora")
    before = logits(module, lab.task.texts)
    started = perf_counter()
    merge_lora(module.model)
    seconds = perf_counter() - started
    difference = float((logits(module, lab.task.texts) - before).abs().max())
    largest = float(before.abs().max())
    if not difference <= TOLERANCE * largest:
        raise ArithmeticError(
            f"lab0: merging changed a logit by {difference:.2e}, more than {TOLERANCE:.0e} of the "
            f"largest, {largest:.2f}."
        )
    console.print(f"Largest difference of a logit: {difference:.1e}; largest logit {largest:.2f}")
    plain = lab.task.build()
    plain.load_state_dict(module.state_dict())
    return {
        **lab.judge("merged", plain, budget),
        "seconds": round(seconds, 3),
        "trainable": 0,
        "total": parameter_counts(plain).total,
        "largest_difference": difference,
        "largest_logit": largest,
    }


def logits(module: TextClassifier, texts: TextData) -> Tensor:
    """Of the validation split in float32, ``(samples, classes)``."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module.logits(batch) for batch in texts.val_dataloader()])


def write_page(tensorboard: TensorBoard, lab: ModelRun) -> None:
    """Show what was found so far in TensorBoard: a row of HPARAMS each, the table, the curves."""
    rows = lab0(lab)
    for number, row in enumerate(rows, 1):
        metrics = {key: row.get(key) for key in COLUMNS if key != "model"}
        write_row(lab.folder, number, row["model"], {"model": row["model"]}, metrics)
        if row["curve"] is not None:
            curve = [(x, y) for x, y, _ in row["curve"]]
            write_run(lab.folder / OVERVIEW / row["model"], curves={BY_STEP: curve})
    tables = {"fine-tuning": shown(rows, COLUMNS)}
    tensorboard.write_page(lab.folder, LAYOUT, tables)


def write(lab: ModelRun, model: Mapping[str, str]) -> None:
    """Write everything found so far: table, summary and curves."""
    rows = lab0(lab)
    report.write_csv(lab.folder / "results.csv", rows)
    results = {row["model"]: row for row in rows}
    summary = {**about(lab, lab.task), "model": model, "results": results}
    report.write_json(lab.folder / "summary.json", summary)
    draw(StoredRun.read(lab.folder))


def main(arguments: Sequence[str]) -> None:
    """Run the lab as a command line says."""
    cli.run(
        run_lab,
        defaults_of("lab0"),
        {**TASK_ARGUMENTS, "lora_classifier": TASK_ARGUMENTS["classifier"]},
        arguments=arguments,
    )

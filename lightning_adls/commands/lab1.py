"""Lab 1: quantise a BERT at many widths, then prune the best of them to many sparsities.

Widths: fixed point, with post-training quantisation (PTQ) and with quantisation-aware training
(QAT) from the same weights. Sparsities: the best quantised model, pruned by several methods and
trained again. Run:

    adls lab1
    adls lab1 --sparsities '[0.5, 0.9]' --structured '[0.25, 0.5]'
    adls lab1 --config configs/lab1_imdb.yaml --weights best.ckpt

The same command continues an interrupted run and repeats nothing that is done; longer lists of
widths, sparsities and methods add to it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from rich.console import Console

from lightning_adls import report
from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.commands.table import defaults_of
from lightning_adls.data import TextData
from lightning_adls.engines import Ray
from lightning_adls.errors import InputValueError
from lightning_adls.events import write_run
from lightning_adls.formats import Integer, LearnedInteger
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.best import about_best, in_a_line
from lightning_adls.labs.choosing import best_quantised, choosable, sparsest_within
from lightning_adls.labs.classified import right
from lightning_adls.labs.compression import (
    Observer,
    Schedule,
    Work,
    calibrated,
    prune,
    quantise,
    remove,
)
from lightning_adls.labs.computing import EngineName, computing_by
from lightning_adls.labs.curves import by_sparsity, by_width, way_to_prune
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.rows.steps import START, TRAINED, lab1
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.tables import in_words, table
from lightning_adls.labs.task import TASK_ARGUMENTS, Task
from lightning_adls.labs.tensorboard import OVERVIEW, TensorBoard, shown, write_model, write_row
from lightning_adls.models import NetworkFactory
from lightning_adls.remaining import Remaining
from lightning_adls.report import Row
from lightning_adls.transforms import Prune, PruneStructured, Quantize

# Arguments in which calls of one run may differ: what a step depends on stands in its name.
PASSING = {
    *("widths", "frac_widths", "observer", "calibration_batches"),
    *("sparsities", "methods", "schedules", "structured", "tolerance"),
}
METHODS: dict[str, Literal["l1", "random"]] = {"l1-norm": "l1", "random": "random"}
WIDEST_LEARNED = 16
COLUMNS = {
    "model": ("model", ""),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
    "bits_per_weight": ("bits/w", ".2f"),
    "sparsity": ("sparsity", ".2f"),
    "size_mb": ("MB", ".2f"),
}

BY_WIDTH, BY_SPARSITY = "accuracy/by_width", "accuracy/by_percent_of_zeros"
LAYOUT = {
    "Quantised and pruned": {
        "validation accuracy by width in bits": [BY_WIDTH],
        "validation accuracy by sparsity in percent": [BY_SPARSITY],
    }
}
# What tells one step from another; TensorBoard shows no more than five by itself.
CHOICES = ("method", "training", "frac_width", "width", "target_sparsity")
METRICS = ("val_accuracy", "bits_per_weight", "size_mb", "sparsity", "seconds")

FracWidth = Literal["half", "calibrated", "learned"]
Method = Literal["random", "l1-norm"]
console = Console()


def run_lab(
    config_yaml: str,
    data: Callable[..., TextData],
    model: NetworkFactory,
    classifier: Callable[..., TextClassifier],
    widths: list[int],
    frac_widths: list[FracWidth],
    sparsities: list[float],
    methods: list[Method],
    schedules: list[Schedule],
    qat: Budget,
    retrain: Budget,
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    ray: Ray,
    tensorboard: TensorBoard | None = None,
    finetune: Budget | None = None,
    weights: str | None = None,
    observer: Observer = "mse",
    calibration_batches: int = 8,
    scope: Literal["local", "global"] = "local",
    activation_sparsity: float = 0.0,
    structured: list[float] | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    engine: EngineName | None = None,
    workers: int = 1,
    run: str = "default",
) -> None:
    """Quantise a BERT at many widths, then prune the best of them to many sparsities.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The network: a checkpoint or dimensions.
        classifier: How it is trained.
        widths: Total bits of the fixed-point numbers, 2 to 32.
        frac_widths: How the fraction width is chosen: ``half`` of the width, ``calibrated`` for
            each tensor on training batches, or ``learned``: a step size that trains (LSQ, for
            widths up to 16).
        sparsities: Shares of the weights to prune, above 0 and below 1.
        methods: What is pruned: ``l1-norm`` the smallest weights, ``random`` any.
        schedules: ``one_shot`` before training again, or ``cubic``, in steps during it.
        qat: Budget of each quantisation-aware training.
        retrain: Budget of training after (or while) pruning.
        callbacks: Of Lightning, for each training.
        logger: Lightning's loggers, for each training.
        tensorboard: What is written for TensorBoard besides; null for nothing.
        finetune: Budget of the fine-tune in full precision that everything starts from.
        weights: A checkpoint to start from instead, written by ``adls train``.
        observer: How ``calibrated`` chooses: by ``minmax``, ``percentile`` or ``mse``.
        calibration_batches: Training batches that are observed.
        scope: Whether each layer reaches the sparsity (``local``) or all together (``global``).
        activation_sparsity: Share of each layer's input features that is dropped after pruning.
        structured: Shares of attention heads and feed-forward neurons to remove, besides.
        tolerance: Loss of validation accuracy within which the sparsest model is chosen to be
            tested.
        seed: Of everything.
        engine: Who computes: serial (this process), processes (of this machine) or ray (a
            cluster); by default serial for one worker, and processes for more.
        workers: How many trainings run at a time.
        ray: The cluster of the engine ray, and what each of its workers gets.
        run: Name of the folder in lightning_logs/lab1.
    """
    check_arguments(widths, sparsities, structured or [], calibration_batches, tolerance)
    computing = computing_by(engine, workers, ray, qat)
    pruning = Prune(0.0, scope=scope, activation_sparsity=activation_sparsity, seed=seed)
    if finetune is None and weights is None:
        raise InputValueError("lab1: there is nothing to start from; give finetune or weights.")
    task = Task(
        data,
        model,
        classifier,
        seed=seed,
        budgets=[qat, retrain],
        callbacks=callbacks,
        loggers=logger,
        finetune=finetune,
        weights=weights,
    )
    if structured:
        PruneStructured(heads=0.5)(task.build().model)  # refuses other networks than BERT
    with computing, ModelRun("lab1", run, config_yaml, task, passing=PASSING) as lab:
        total = count(widths, frac_widths, methods, schedules, sparsities, structured or [])
        remaining = Remaining()
        lab.listeners += [
            lambda name, row: show_step(lab, name, row, remaining, total),
            lambda *_: write_rows(lab),
            lambda *_: drop_checkpoints(lab),
        ]
        if tensorboard is not None:
            # Also what a process left behind that was killed just before.
            write_steps(lab, lab.rows)
            lab.listeners.append(lambda step, _: write_steps(lab, [step]))
        lab.plan([START, TRAINED])
        lab.start(qat, START)
        lab.step(TRAINED, lambda: lab.train(TRAINED, task.build(), qat))

        # Part 1: each width, without training and with it.
        works: dict[str, Work] = {}
        for frac_width, width in product(frac_widths, widths):
            name, both = f"{frac_width}/{width}", ["ptq", "qat"]
            how: dict[str, Any] = {"width": width, "frac_width": frac_width}
            if frac_width == "half":
                works |= quantise(name, half(width), qat, both, **how)
            elif frac_width == "calibrated":
                name = f"{observer}-{calibration_batches}/{width}"
                recipe = calibrated(lab, name, half(width), observer, calibration_batches)
                works |= quantise(name, recipe, qat, both, **how, observer=observer)
            elif width <= WIDEST_LEARNED:
                # A step size that nothing has learned is no result: there is no PTQ.
                works |= quantise(name, learned(width), qat, ["qat"], **how)
        lab.steps(works, computing, console=console)

        # Part 2: the best of them, pruned and trained again.
        best = best_quantised(lab.rows)
        assert best is not None  # there is at least one width
        works = {}
        for method, schedule, sparsity in product(methods, schedules, sparsities):
            pruned = replace(pruning, sparsity=sparsity, method=METHODS[method])
            works |= prune(best, pruned, schedule, retrain, method)
        lab.steps(works, computing, sources=[best], console=console)
        for share in structured or []:
            remove(lab, best, share, retrain)

        quantised = quantised_rows(lab)
        answers = {step: right(lab.answers("val", step)) for step in quantised}
        val_rows = task.texts.row_counts["val"]
        alike = about_best(quantised, answers, val_rows, "bits_per_weight")
        results = test_chosen(lab, best, tolerance, qat, alike)
        drop_checkpoints(lab)
        write_rows(lab)
        draw(StoredRun.read(lab.folder))
        rows = [{"model": name, **row} for name, row in results.items()]
        if tensorboard is not None:
            write_page(tensorboard, lab, rows, task)
    console.print(table("Chosen on the validation split, tested once", rows, COLUMNS))
    console.print(in_a_line(alike, quantised), highlight=False, soft_wrap=True)
    console.print(f"All models, figures and recipes: {lab.folder}", soft_wrap=True)


def check_arguments(
    widths: Sequence[int],
    sparsities: Sequence[float],
    structured: Sequence[float],
    calibration_batches: int,
    tolerance: float,
) -> None:
    """Refuse numbers out of range."""
    for width in widths:
        Integer(width, width // 2)
        LearnedInteger(min(width, WIDEST_LEARNED))
    for name, shares in (("sparsities", sparsities), ("structured", structured)):
        if wrong := [share for share in shares if not 0 < share < 1]:
            raise InputValueError(f"lab1: {name}: {wrong[0]} is not between 0 and 1.")
    if not widths:
        raise InputValueError("lab1: widths is empty; give at least one, such as 8.")
    if calibration_batches < 1:
        raise InputValueError(f"lab1: calibration_batches={calibration_batches} is below 1.")
    if not 0 <= tolerance < 1:
        raise InputValueError(f"lab1: tolerance={tolerance} is not in 0 <= tolerance < 1.")


def half(width: int) -> Quantize:
    """Fixed point with half of the bits behind the point."""
    return Quantize({"*": str(Integer(width, width // 2))})


def learned(width: int) -> Quantize:
    """Step sizes that train (LSQ); its paper leaves biases as they are."""
    text = str(LearnedInteger(width))
    return Quantize({"*": {"input": text, "weight": text}})


def drop_checkpoints(lab: ModelRun) -> None:
    """Keep the weights that this call, or a later one with other arguments, can need."""
    best = best_quantised(lab.rows)
    lab.keep([] if best is None else [best, *choosable(lab.rows, best)])


def quantised_rows(lab: ModelRun) -> dict[str, Row]:
    """The quantised models by their steps, those of the fewest bits first."""
    rows = {row["step"]: row for row in lab1(lab) if row["method"] == "quantised"}
    return dict(sorted(rows.items(), key=lambda one: float(one[1]["bits_per_weight"])))


def test_chosen(
    lab: ModelRun, best: str, tolerance: float, budget: Budget, alike: Row
) -> dict[str, Row]:
    """Test the chosen models, once each, and write what they are."""
    sparse = sparsest_within(lab.rows, best, tolerance)
    results = {}
    for name, step in {"float32": START, "quantised": best, "sparse": sparse}.items():
        path = lab.folder / f"{name}_recipe.yaml"
        path.unlink(missing_ok=True)
        if step is None:
            continue
        lab.test(step, budget)
        results[name] = next(row for row in lab1(lab) if row["step"] == step)
        for transform in lab.transforms_of(step):
            if isinstance(transform, Quantize):
                transform.save(path)
    report.write_json(
        lab.folder / "summary.json", {**about(lab, lab.task), "results": results, "best": alike}
    )
    return results


def count(
    widths: Sequence[int],
    frac_widths: Sequence[FracWidth],
    methods: Sequence[Method],
    schedules: Sequence[Schedule],
    sparsities: Sequence[float],
    structured: Sequence[float],
) -> int:
    """How many models there will be, the two in full precision included."""
    learned_widths = [width for width in widths if width <= WIDEST_LEARNED]
    quantised = [
        len(learned_widths) if how == "learned" else 2 * len(widths) for how in frac_widths
    ]
    return 2 + sum(quantised) + len(methods) * len(schedules) * len(sparsities) + len(structured)


def show_step(lab: ModelRun, name: str, row: Row, remaining: Remaining, total: int) -> None:
    """Print what a step found, and how many models are left."""
    if "checkpoint" in row:
        done = sum("checkpoint" in each for each in lab.rows.values())
        # The fine-tune that all start from takes much longer than what follows.
        work = 0.0 if name == START else 1.0
        far = remaining.after_one(done, max(done, total), work)
        reached = in_words(row["accuracy"], lab.task.texts.row_counts["val"])
        console.print(f"{name:<40} {reached}  {far}", highlight=False, soft_wrap=True)


def write_rows(lab: ModelRun) -> None:
    """Write ``results.csv``: a row for each model so far."""
    report.write_csv(lab.folder / "results.csv", lab1(lab))


def write_steps(lab: ModelRun, steps: Iterable[str]) -> None:
    """Show steps in TensorBoard: a row of HPARAMS each, and the curves so far."""
    rows = lab1(lab)
    for number, row in enumerate(rows, 1):
        if row["step"] in steps:
            choices = {key: row[key] for key in CHOICES if row[key] is not None}
            if row["schedule"] is not None:
                choices["method"] = way_to_prune(row)
            write_row(lab.folder, number, row["step"], choices, {key: row[key] for key in METRICS})
    best = best_quantised(lab.rows)
    pruned = {} if best is None else by_sparsity(rows, best)
    for tag, scale, curves in ((BY_WIDTH, 1, by_width(rows)), (BY_SPARSITY, 100, pruned)):
        for name, curve in curves.items():
            scaled = [(scale * point.x, point.y) for point in curve]
            write_run(lab.folder / OVERVIEW / name, curves={tag: scaled})


def write_page(tensorboard: TensorBoard, lab: ModelRun, rows: Sequence[Row], task: Task) -> None:
    """Write the figures, the table and the recipes, and what rounding does to the models."""
    names = [row["model"] for row in rows if (lab.folder / f"{row['model']}_recipe.yaml").exists()]
    recipes = {name: f"{name}_recipe.yaml" for name in names}
    tensorboard.write_page(lab.folder, LAYOUT, {"chosen": shown(rows, COLUMNS)}, recipes)
    for row in rows:
        if tensorboard.histograms and row["model"] in names:
            write_model(
                lab.folder / OVERVIEW / "best" / row["model"], lab.module(row["step"]), task.texts
            )


def main(arguments: Sequence[str]) -> None:
    """Run the lab as a command line says."""
    cli.run(
        run_lab,
        defaults_of("lab1"),
        TASK_ARGUMENTS,
        arguments=arguments,
    )

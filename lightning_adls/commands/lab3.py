r"""Lab 3: search a number format for every tensor of every linear layer of a network.

Each study searches one family of formats: every layer chooses its own formats and parameters, the
model is quantised, trained within a budget and validated. Run:

    adls lab3
    adls lab3 --config configs/lab3_low_bit.yaml --run low_bit
    adls lab3 --config configs/lab3_mase.yaml
    adls lab3 --sampler optuna.samplers.NSGAIISampler --run genetic
    adls lab3 --strategy plan --budget_bits 4 --run plan
    adls lab3 --data configs/data/imdb.yaml \
        --model.checkpoint prajjwal1/bert-tiny --run imdb

The same command continues an interrupted run and repeats nothing that is done.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.pruners import BasePruner
from rich.console import Console

from lightning_adls import report, search
from lightning_adls.classifier import TextClassifier
from lightning_adls.commands.table import defaults_of
from lightning_adls.data import TextData
from lightning_adls.engines import Ray
from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.best import about_best, in_a_line
from lightning_adls.labs.classified import right
from lightning_adls.labs.computing import EngineName, computing_by
from lightning_adls.labs.concerns import about_searches, say
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.drawing.lab3 import draw_running_best
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.labs.format_search_parts import Choosing, Judging, Proposing, Stored
from lightning_adls.labs.format_searches import FormatSearches
from lightning_adls.labs.fronts import write_fronts
from lightning_adls.labs.halves import ReportOn
from lightning_adls.labs.judging import (
    compared,
    load_best,
    reported,
    reported_flips,
    step_of,
    test,
    tested,
    weights_of,
)
from lightning_adls.labs.model_run import START, ModelRun
from lightning_adls.labs.monitoring import Monitor, Monitoring
from lightning_adls.labs.one_shot import OneShot
from lightning_adls.labs.planned import Planning, above_budget
from lightning_adls.labs.rows.columns import accuracy
from lightning_adls.labs.rows.trials import TrialTable, total_seconds
from lightning_adls.labs.searching import searching
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.strategies import SEARCHES, Strategy
from lightning_adls.labs.tables import table
from lightning_adls.labs.task import TASK_ARGUMENTS, Task
from lightning_adls.labs.tensorboard import (
    OVERVIEW,
    TensorBoard,
    search_layout,
    shown,
    write_model,
)
from lightning_adls.labs.uniform import uniform_rows, uniform_steps
from lightning_adls.layers import builder
from lightning_adls.models import NetworkFactory
from lightning_adls.report import Row
from lightning_adls.search import Budget, FormatSpace, SamplerFactory, Search
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import linear_layers, match

# Arguments in which calls of one run may differ. (Each study remembers its own space and whether it
# is trained.)
PASSING = {
    *("storage", "trials", "only", "figures", "strategy", "budget_bits", "planning", "one_shot"),
    *("minimise", "uniform"),
    *("studies", "precisions", "ranges", "low_ranges", "train", "untrained"),
}
COLUMNS = {
    "study": ("study", ""),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
    "bits_per_weight": ("bits/w", ".2f"),
}
TRIALS = {
    "study": ("study", ""),
    "trials": ("trials", "d"),
    "pruned": ("pruned", "d"),
    "failed": ("failed", "d"),
    "seconds": ("s", ".0f"),
}

COSTS_OF_FORMATS = ("bits_per_weight", "size_mb", "bit_operations")
TITLE = "Mixed-precision search"

Ranges = dict[str, list[int | str | tuple[int, ...]]]
Template = str | dict[str, str | None] | None
Searches = Mapping[str, Search[Quantize]]
console = Console()


def run_lab(
    config_yaml: str,
    data: Callable[..., TextData],
    model: NetworkFactory,
    classifier: Callable[..., TextClassifier],
    precisions: dict[str, Template],
    ranges: Ranges,
    studies: dict[str, list[str]],
    figures: dict[str, list[str]],
    layers: list[str],
    low_ranges: Ranges,
    untrained: list[str],
    budget: Budget,
    planning: Planning,
    one_shot: OneShot,
    sampler: SamplerFactory,
    pruner: BasePruner,
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    ray: Ray,
    tensorboard: TensorBoard | None = None,
    finetune: Budget | None = None,
    weights: str | None = None,
    train: bool = True,
    backend: Literal["standard", "mase", "chop"] = "standard",
    share: bool = False,
    monitor: Monitor = "val/accuracy",
    report_on: ReportOn = "all",
    strategy: Strategy = "per_layer",
    budget_bits: float | None = None,
    minimise: list[str] | None = None,
    uniform: list[str] | None = None,
    trials: int = 24,
    only: list[str] | None = None,
    seed: int = 0,
    engine: EngineName | None = None,
    workers: int = 1,
    run: str = "default",
    storage: str | None = None,
) -> None:
    """Search a number format for every tensor of every linear layer of a network.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The network: a checkpoint or dimensions.
        classifier: How it is trained.
        precisions: By name, the formats of a layer's input, weight and bias. Parameters that are
            not fixed are searched over their ranges. One format stands for all three tensors,
            null for full precision.
        ranges: Values of the formats' parameters; ``MXFP.width`` is the width of MXFP alone. A
            list is a tile: ``[-1, 16]`` is all rows by 16 columns.
        low_ranges: The same where bits are few: under a budget, and with another strategy than
            per_layer. They stand in for the script's own ranges, not for those that you give.
        studies: By name, the precisions that each layer chooses among.
        figures: By file name, the studies whose running best is drawn together.
        layers: Shell patterns of the layers that are searched; the others stay as they are.
        untrained: Studies whose trials only evaluate.
        budget: What each trial may spend.
        sampler: What proposes the trials: any class of samplers of Optuna that takes a seed, or
            ``lightning_adls.search.GridSampler``.
        pruner: What stops weak trials: any class of pruners of Optuna. Its steps are percent of
            the budget.
        callbacks: Of Lightning, for each training.
        logger: Lightning's loggers, for each training.
        tensorboard: What is written for TensorBoard besides; null for nothing.
        finetune: Budget of a fine-tune in full precision from which all trials start.
        weights: A checkpoint to start from instead, written by ``adls train``.
        train: Train after quantising; if false, the trials of all studies only evaluate.
        backend: What computes with rounded numbers: standard, mase (as MASE does, faults included)
            or chop (MASE itself).
        share: Make one choice for all layers instead of one for each.
        monitor: What trials are compared by, ``val/accuracy``, ``val/loss`` or ``val/divergence``.
            The last two have less noise; the divergence is that of a model's probabilities from
            those of the start.
        report_on: Validation rows that accuracies are reported on, ``all`` or ``half``. By that
            half no trials are compared.
        strategy: What the trials of a study try, per_layer, plan or one_shot. The first is what the
            sampler proposes; plan the recipes of the least predicted loss for several budgets,
            budget_bits the first; one_shot what the sampler proposes, judged by the weights of one
            training for all recipes, of which the best are then trained alone. A run may be
            continued with another one: it is another search of the study.
        budget_bits: Most bits per weight; null for any number.
        minimise: Further objectives, of bits_per_weight, size_mb and bit_operations. The sampler
            then looks for the Pareto front.
        uniform: Formats that are each given to all layers, such as ``MXInt(width=4)``. They are
            trained like a trial, and shown beside the front.
        planning: What a plan may spend on knowing its layers.
        one_shot: What one training for all recipes may spend.
        trials: Trials of each search.
        only: The studies to run now; by default all.
        seed: Of everything.
        engine: Who computes: serial (this process), processes (of this machine) or ray (a
            cluster); by default serial for one worker, and processes for more.
        workers: How many trials run at a time.
        ray: The cluster of the engine ray, and what each of its workers gets.
        run: Name of the folder in lightning_logs/lab3.
        storage: URL of an Optuna storage; by default a journal file in the run's folder.
    """
    chosen = only
    only = list(studies) if only is None else only
    check_names(studies, "precision", precisions)
    check_names({"only": only, **figures}, "study", studies)
    check_names({"untrained": untrained} if untrained else {}, "study", studies)
    if unknown := [name for name in minimise or [] if name not in COSTS_OF_FORMATS]:
        raise InputValueError(
            f"lab3: minimise={minimise} names {unknown[0]!r}, which is no cost of formats; there "
            f"are {', '.join(COSTS_OF_FORMATS)}."
        )
    if budget_bits is not None and not budget_bits > 0:
        raise InputValueError(f"lab3: budget_bits={budget_bits} is not above 0.")
    if trials < 1:
        raise InputValueError(f"lab3: trials={trials} is below 1.")
    computing = computing_by(engine, workers, ray, budget)
    builder(backend)
    low = strategy != "per_layer" or budget_bits is not None
    ranges = with_low_ranges(ranges, low_ranges) if low else ranges
    FormatSpace.from_templates(layers, precisions, ranges)  # also those of no study
    check_used(precisions, studies)
    if strategy == "one_shot" and backend != "standard":
        raise InputValueError(
            f"lab3: backend={backend} has layers of one format each, and strategy=one_shot trains "
            "them in all; use backend=standard."
        )
    task = Task(
        data,
        model,
        classifier,
        seed=seed,
        budgets=[budget, one_shot.budget],
        callbacks=callbacks,
        loggers=logger,
        finetune=finetune,
        weights=weights,
    )
    if strategy == "one_shot":
        one_shot.check(task)
    monitoring = Monitoring.of(task.texts, monitor, report_on, seed)
    found = list(match(linear_layers(task.network), dict.fromkeys(layers), "layers"))
    spaces = {
        name: FormatSpace.from_templates(
            layers if share else found, {p: precisions[p] for p in members}, ranges
        )
        for name, members in studies.items()
    }
    for space in spaces.values():
        space.check_backend(backend)
        search.make_sampler(sampler, space, seed, objectives=1 + len(minimise or []))
    alike = {text: Quantize(dict.fromkeys(layers, text), backend=backend) for text in uniform or []}

    if budget_bits is not None:
        above = above_budget(task, {name: spaces[name] for name in only}, budget_bits)
        only = within_budget(only, above, budget_bits, chosen is None)

    def build(recipe: Quantize) -> TextClassifier:
        return task.build(replace(recipe, backend=backend))

    with (
        computing,
        ModelRun("lab3", run, config_yaml, task, passing=PASSING) as lab,
        search.open_storage(storage or lab.folder / "search.journal") as store,
    ):
        bars = search.Bars(console, len(only) * len(SEARCHES[strategy]))
        trained = [name for name in studies if train and name not in untrained]
        lists = FormatSearches(
            lab,
            Stored(store, storage is not None, lab.name),
            Choosing(spaces, found, budget_bits),
            Proposing(strategy, trials, sampler, pruner, planning, one_shot),
            Judging(build, budget, trained, monitoring, minimise or []),
            computing,
            console,
        )
        searches = lists.searches
        front = (minimise or ["bits_per_weight"])[0]
        layout = search_layout(TITLE, minimises=bool(minimise))
        results = TrialTable(
            lab.folder / "results.csv",
            searches,
            monitoring,
            "recipe",
            lists.about,
            front,
            1 / task.num_classes,
        )
        lists.listeners.extend([results, bars])
        if tensorboard is not None:
            lists.listeners.append(
                tensorboard.listener(lab.folder, f"lab3/{run}", chance=1 / task.num_classes)
            )
        lists.open_begun(only)
        lab.begin()
        console.print(f"{len(found)} linear layers; {len(only)} studies of up to {trials} trials")
        lab.start(budget)
        monitoring.refer_to(task.build(), task.texts, budget)
        lab.steps(uniform_steps(alike, budget, train), computing, [START], console)
        ran = list[Search[Quantize]]()
        with searching(bars):
            for name in only:
                for each in lists.of(name):
                    each.run()
                    ran.append(each)
                    results.write()  # also where all trials were there already
                    draw_running_best(StoredRun.read(lab.folder))
                    if tensorboard is not None:
                        tensorboard.write_page(lab.folder, layout)
        if monitoring.by_accuracy:
            say(about_searches(ran, monitoring.choosing_rows))
        here = {name for name, each in searches.items() if each in ran}
        reference = results.reference
        rows = write_summary(lab, searches, here, backend, train, monitoring, front, reference)
        results.write()
        draw(StoredRun.read(lab.folder))
        ranked = sorted(rows, key=lambda row: -(row["val_accuracy"] or 0))
        if tensorboard is not None:
            recipes = {row["study"]: row["best_recipe"] for row in rows if "best_recipe" in row}
            tables = {"best of each study": shown(ranked, {**COLUMNS, **TRIALS})}
            tensorboard.write_page(lab.folder, layout, tables, recipes)
            for row in rows:
                if tensorboard.histograms and row.get("best_checkpoint") and row["study"] in here:
                    each = searches[row["study"]]
                    assert each.best is not None  # its weights are here
                    module = load_best(each)
                    write_model(lab.folder / OVERVIEW / row["study"] / "best", module, task.texts)
    console.print(table("Best of each study", ranked, COLUMNS))
    console.print(table("Trials of each study", ranked, TRIALS))
    console.print(f"Figures, recipes and checkpoints: {lab.folder}", soft_wrap=True)


def check_names(groups: Mapping[str, list[str]], what: str, known: Collection[str]) -> None:
    """Refuse groups of what is not there, and groups of nothing."""
    there = f"there are {', '.join(known)}."
    for name, members in groups.items():
        for member in members:
            if member not in known:
                meant = did_you_mean(member, known) or ";"
                raise InputValueError(
                    f"lab3: {name!r} names {member!r}, which is no {what}{meant} {there}"
                )
        if not members:
            raise InputValueError(f"lab3: {name!r} names no {what}; {there}")


def within_budget(
    only: list[str], above: Mapping[str, float], bits: float, skip: bool
) -> list[str]:
    """The studies that can have a budget of bits; the others are said to be left out, or refused.

    Args:
        only: The studies.
        above: The fewest bits of those that cannot.
        bits: The budget.
        skip: Whether these may be left out: nobody asked for them by name.
    """
    fewest = ", ".join(f"{name} ({least:.3g})" for name, least in above.items())
    if len(above) == len(only) or (above and not skip):
        raise InputValueError(
            f"lab3: budget_bits={bits:g} is below the fewest bits per weight of {fewest}; allow "
            "more, give formats of fewer bits (--low_ranges.width), or leave the study out."
        )
    if above:
        console.print(f"Left out, above {bits:g} bits per weight: {fewest}", highlight=False)
    return [name for name in only if name not in above]


def with_low_ranges(ranges: Ranges, low: Ranges) -> Ranges:
    """The ranges, with those that the user did not change lowered."""
    own = own_defaults()["ranges"]
    return {**ranges, **{k: v for k, v in low.items() if ranges.get(k) == own.get(k)}}


def own_defaults() -> dict[str, Any]:
    """What the lab's own configuration file says."""
    text = defaults_of("lab3").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def check_used(precisions: Mapping[str, Template], studies: Mapping[str, list[str]]) -> None:
    """Refuse precisions that the user gave and no study uses; the script's own may stay unused."""
    own = own_defaults()["precisions"]
    used = {member for members in studies.values() for member in members}
    given = [name for name, each in precisions.items() if name not in own or own[name] != each]
    if unused := [name for name in given if name not in used]:
        raise InputValueError(
            f"lab3: precisions: no study uses {unused[0]!r}; add it to one, such as "
            f"--studies.{unused[0]} '[{unused[0]}]'."
        )


def write_summary(
    lab: ModelRun,
    searches: Searches,
    only: Collection[str],
    backend: str,
    train: bool,
    monitoring: Monitoring,
    front: str,
    reference: tuple[float, float],
) -> list[Row]:
    """Test the best model of each study that was run, and write what is known of all.

    Other studies, and those of other machines, are shown with what the storage knows.
    """
    rows: dict[str, Any] = {}
    for name, each in searches.items():
        if not each.counted:
            continue
        found = search.summary(each.study)
        rows[name] = accuracy("val", monitoring.accuracy(each.best), monitoring.reporting_rows)
        rows[name] |= found
        if (best := each.best) is None:
            continue
        recipe, weights = Path(name, "best_recipe.yaml"), weights_of(each)
        (lab.folder / name).mkdir(exist_ok=True)
        Quantize(best.user_attrs["choice"], backend=backend).save(lab.folder / recipe)
        here = name in only and weights is not None
        if here:
            test(lab, lab.task, each)
        rows[name] |= {
            **tested(each),
            **reported_flips(lab, START, step_of(each), monitoring),
            "best_recipe": str(recipe),
            "best_checkpoint": weights and str(weights.relative_to(lab.folder)),
        }
    known = about(lab, lab.task, total_seconds(searches))
    on_all = lab.rows[START]["accuracy"]
    start = reported(lab, START, on_all, monitoring)
    if monitoring.by_accuracy:
        start |= compared(lab, START, on_all, monitoring)
    answers = {
        name: right(lab.answers("val", step_of(each)), monitoring.reporting)
        for name, each in searches.items()
        if each.best is not None
    }
    alike = about_best(rows, answers, monitoring.reporting_rows, "bits_per_weight")
    summary = {
        **known,
        "start": start,
        "results": rows,
        "best": alike,
        "uniform": uniform_rows(lab, train, monitoring),
        "fronts": write_fronts(
            lab.folder,
            searches,
            front,
            monitoring,
            lambda trial, path: Quantize(trial.user_attrs["choice"], backend=backend).save(path),
        ),
        "hypervolume_reference": reference,
    }
    if monitoring.reporting is not None:
        summary["reporting"] = sorted(monitoring.reporting)
    report.write_json(lab.folder / "summary.json", summary)
    if alike:
        console.print(in_a_line(alike, rows), highlight=False, soft_wrap=True)
    return [{"study": name, **row} for name, row in rows.items()]


def main(arguments: Sequence[str]) -> None:
    """Run the lab as a command line says."""
    cli.run(
        run_lab,
        defaults_of("lab3"),
        TASK_ARGUMENTS,
        arguments=arguments,
    )

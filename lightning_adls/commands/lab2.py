"""Lab 2: search the architecture of a BERT, then search it anew for what survives compression.

Task 1 compares samplers on the same space. Task 2 searches with the best of them twice more, and
judges each model after it was quantised and pruned: as it is, and trained again. Run:

    adls lab2
    adls lab2 --seeds '[0, 1, 2]' --run seeds
    adls lab2 --space.identities search --only '[random, tpe]' --run identities
    adls lab2 --samplers.genetic optuna.samplers.NSGAIISampler --run genetic
    adls lab2 --minimise '[size_mb]' --run front
    adls lab2 --config configs/lab2_imdb.yaml

The same command continues an interrupted run and repeats nothing that is done.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import yaml
from optuna.pruners import BasePruner
from rich.console import Console

from lightning_adls import report, search
from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.commands.table import defaults_of
from lightning_adls.data import TextData
from lightning_adls.engines import Ray
from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.architectures import Models, smallest
from lightning_adls.labs.best import about_best, in_a_line
from lightning_adls.labs.classified import right
from lightning_adls.labs.comparing import best_of, log, rank
from lightning_adls.labs.computing import EngineName, computing_by
from lightning_adls.labs.concerns import about_data, about_searches, say
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.drawing.lab2 import SEARCHES, draw_samplers
from lightning_adls.labs.examples import with_example
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.labs.fronts import write_fronts
from lightning_adls.labs.halves import ReportOn
from lightning_adls.labs.judging import judge, judge_compressed
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.trials import TrialTable, total_seconds
from lightning_adls.labs.run import Run
from lightning_adls.labs.searching import searching
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.tables import table
from lightning_adls.labs.task import TASK_ARGUMENTS, Task
from lightning_adls.labs.tensorboard import TensorBoard, search_layout, shown
from lightning_adls.models import FROM_DATA, NetworkFactory
from lightning_adls.report import Row
from lightning_adls.search import (
    BUDGETS,
    Architecture,
    ArchitectureSpace,
    Limits,
    Objective,
    SamplerFactory,
    Search,
)
from lightning_adls.transforms import Prune, Quantize, Transform

# Arguments in which calls of one run may differ: each study is stored under what it depends on.
PASSING = {"storage", "trials", "samplers", "only", "seeds"}
DIMENSIONS = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")

# The three searches.
PLAIN, AWARE, RETRAINED = "plain", "aware", "aware_retrained"
ACCURACIES = {
    "name": ("model", ""),
    "val_accuracy_before_compression": ("before", ".4f"),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
}
COSTS = {
    "name": ("model", ""),
    "parameters": ("parameters", ","),
    "size_mb": ("MB", ".3f"),
    "bits_per_weight": ("bits/w", ".2f"),
    "sparsity": ("zeros", ".2f"),
}
RANKING = {
    "name": ("sampler", ""),
    "mean_best": ("best val acc.", ".4f"),
    "trials_to_best": ("after trials", ".1f"),
}
FIGURES = ("samplers", "compression_aware")
TITLE = "Architecture search"

Template = str | dict[str, str | None] | None
console = Console()


def run_lab(
    config_yaml: str,
    data: Callable[..., TextData],
    model: NetworkFactory,
    classifier: Callable[..., TextClassifier],
    space: ArchitectureSpace,
    samplers: dict[str, SamplerFactory],
    pruner: BasePruner,
    seeds: list[int],
    budget: Budget,
    quantize: dict[str, Template],
    prune: Prune,
    retrain: Budget,
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    ray: Ray,
    tensorboard: TensorBoard | None = None,
    limits: Limits | None = None,
    minimise: list[str] | None = None,
    reuse: list[str] | None = None,
    report_on: ReportOn = "all",
    trials: int = 8,
    only: list[str] | None = None,
    engine: EngineName | None = None,
    workers: int = 1,
    run: str = "default",
    storage: str | None = None,
) -> None:
    """Search the architecture of a BERT, then search it anew for what survives compression.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: What all architectures have in common.
        classifier: How they are trained.
        space: What is searched.
        samplers: By name, what task 1 compares: any class of samplers of Optuna that takes a seed,
            or ``lightning_adls.search.GridSampler``.
        pruner: What stops weak trials: any class of pruners of Optuna. Its steps are percent of
            the budget.
        seeds: Each search is run once per seed, which is that of its data, sampler and trials.
        budget: What each trial may spend before compression.
        quantize: Task 2: number formats by shell pattern over names of layers.
        prune: Task 2: how many weights are set to zero, and which.
        retrain: Task 2: what a trial may spend after compression, where it trains again.
        callbacks: Of Lightning, for each training.
        logger: Lightning's loggers, for each training.
        tensorboard: What is written for TensorBoard besides; null for nothing.
        limits: What a model may cost; one that costs more is not trained.
        minimise: Task 2: costs that are further objectives beside the accuracy, some of
            ``parameters``, ``bits_per_weight``, ``size_mb`` and ``bit_operations``. What counts
            then is the Pareto front, over the first of them.
        reuse: Pre-trained BERTs, on the hub or in folders. Every model starts from those of their
            weights that have the name and shape of its own.
        report_on: The validation rows that accuracies are reported on: ``all``, by which trials
            are compared as well, or the ``half`` of them by which none is.
        trials: Trials of each search and seed.
        only: Names of the samplers to compare; by default all.
        engine: Who computes: serial (this process), processes (of this machine) or ray (a
            cluster); by default serial for one worker, and processes for more.
        workers: How many trials run at a time.
        ray: The cluster of the engine ray, and what each of its workers gets.
        run: Name of the folder in lightning_logs/lab2.
        storage: URL of an Optuna storage; by default a journal file in the run's folder.
    """
    only = list(samplers) if only is None else only
    minimise = minimise or []
    layout = search_layout(TITLE, "size_mb", minimises=bool(minimise))
    check_arguments(only, samplers, seeds, trials, minimise)
    computing = computing_by(engine, workers, ray, budget)
    for name in only:
        search.make_sampler(samplers[name], space, min(seeds), objectives=1 + len(minimise))
    compression: list[Transform] = [Quantize(quantize), prune]
    tasks, models = dict[int, Task](), dict[int, Models]()
    monitoring = dict[int, Monitoring]()
    for seed in seeds:
        tasks[seed] = task = Task(
            data,
            partial(model, **smallest(space).dimensions),
            classifier,
            seed=seed,
            budgets=[budget, retrain],
            callbacks=callbacks,
            loggers=logger,
        )
        monitoring[seed] = Monitoring.of(task.texts, "val/accuracy", report_on, seed)
        models[seed] = Models(task.texts, model, classifier, compression, reuse or [])
    shares = models[seeds[0]].check(space)
    described = yaml.safe_load(config_yaml)["samplers"]

    with (
        computing,
        Run("lab2", run, config_yaml, passing=PASSING) as lab,
        search.open_storage(storage or lab.folder / "search.journal") as store,
    ):
        # Task 2 searches twice more.
        bars = search.Bars(console, studies=(len(only) + 2) * len(seeds))
        searches = dict[str, Search[Architecture]]()
        kinds, val_rows = dict[str, Row](), monitoring[seeds[0]].choosing_rows
        results = TrialTable(
            lab.folder / "results.csv",
            searches,
            monitoring[seeds[0]],
            "architecture",
            kinds.__getitem__,
            minimise[0] if minimise else None,
            1 / tasks[seeds[0]].num_classes,
        )
        listeners = [results, bars]
        if tensorboard is not None:
            listeners.append(
                tensorboard.listener(
                    lab.folder, f"lab2/{run}", "size_mb", 1 / tasks[seeds[0]].num_classes
                )
            )

        def name_in_storage(name: str) -> str:
            return f"lab2/{run}/{name}" if storage else name

        def open_search(kind: str, sampler: str, seed: int) -> Search[Architecture]:
            name = f"{kind}/{sampler}/{seed}"
            kinds[name] = {"search": kind, "sampler": sampler, "seed": seed}
            of_search = {"search": kind, "sampler": described[sampler], "seed": seed}
            costs = [] if kind == PLAIN else minimise
            build: Callable[[Architecture], TextClassifier] = models[seed].build
            if "bit_operations" in minimise or (limits and limits.bit_operations):
                build = with_example(build, tasks[seed].texts.max_length)
            objective = Objective(
                space,
                build,
                tasks[seed].texts,
                budget,
                lab.folder / name,
                seed,
                compress=None if kind == PLAIN else models[seed].compress,
                retrain=retrain if kind == RETRAINED else None,
                limits=limits,
                minimise=costs,
                callbacks=callbacks,
                loggers=logger,
                **monitoring[seed].for_objective,
            )
            settings = {**lab.settings, **of_search}
            study = search.open_study(
                store,
                name_in_storage(name),
                settings,
                pruner,
                minimise=costs,
                **monitoring[seed].for_study,
            )
            searches[name] = Search(
                study, objective, samplers[sampler], trials, seed, listeners, computing
            )
            return searches[name]

        def run_all(kind: str, sampler: str) -> dict[int, Search[Architecture]]:
            found = {seed: open_search(kind, sampler, seed) for seed in seeds}
            for each in found.values():
                each.run()
            return found

        begun = search.study_names(store)
        for name, seed in product(only, seeds):
            if name_in_storage(f"{PLAIN}/{name}/{seed}") in begun:
                open_search(PLAIN, name, seed).check_free()
        lab.begin()
        say(about_data(tasks[seeds[0]].texts))
        for hidden_size, share in shares.items() if reuse else ():
            console.print(f"hidden_size {hidden_size}: {share:.0%} of the smallest model is reused")
        console.print(f"{space.points} architectures; searches of up to {trials} trials")

        with searching(bars):
            # Task 1: the samplers on the same space.
            compared = {}
            for name in only:
                compared[name] = run_all(PLAIN, name)
                results.write()  # also where all trials were there already
                log(lab.folder, "samplers", compared)
                draw_samplers(StoredRun.read(lab.folder))
                if tensorboard is not None:
                    tensorboard.write_page(lab.folder, layout)
            ranking = rank(compared, val_rows)
            best = next(iter(ranking))
            if ranking[best]["mean_best"] is None:
                cli.refuse(
                    "lab2: with no sampler did each seed complete a trial; the reasons are in "
                    f"{results.path}."
                )
            # Task 2: the best of them, judged after compression.
            found = {PLAIN: compared[best]}
            for kind in (AWARE, RETRAINED):
                found[kind] = run_all(kind, best)
                labelled = {SEARCHES[kind]: each for kind, each in found.items()}
                log(lab.folder, "compression_aware", labelled)
                if tensorboard is not None:
                    tensorboard.write_page(lab.folder, layout)

        say(about_searches(searches.values(), val_rows))
        rows, found_by = dict[str, Row](), dict[str, Search[Architecture]]()
        for kind, by_seed in found.items():
            if (winner := best_of(by_seed)) is not None:
                task, looking = tasks[winner.seed], monitoring[winner.seed]
                rows[kind], found_by[kind] = judge(lab, task, winner, looking), winner
                if kind == PLAIN and rows[kind]["checkpoint"]:
                    compress = models[winner.seed].compress
                    found_by["compressed"] = winner
                    rows["compressed"] = judge_compressed(lab, task, winner, compress, looking)
        results.write()
        known = about(lab, tasks[seeds[0]], total_seconds(searches))
        answers = {
            name: right(lab.answers("val", step), monitoring[found_by[name].seed].reporting)
            for name, step in steps_of(rows).items()
        }
        alike = about_best(rows, answers, monitoring[seeds[0]].reporting_rows, "size_mb")
        summary = {**known, "samplers": ranking, "models": rows, "best": alike}
        if minimise:
            summary |= {
                "fronts": write_fronts(lab.folder, searches, minimise[0], monitoring[seeds[0]]),
                "hypervolume_reference": results.reference,
            }
        report.write_json(lab.folder / "summary.json", summary)
        draw(StoredRun.read(lab.folder))
        if tensorboard is not None:
            tables = {
                "samplers": shown(named(ranking), RANKING),
                "models": shown(named(rows), {**ACCURACIES, **COSTS}),
            }
            tensorboard.write_page(lab.folder, layout, tables)
    show(ranking, rows, alike, lab.folder)


def check_arguments(
    only: Sequence[str],
    samplers: Collection[str],
    seeds: Sequence[int],
    trials: int,
    minimise: Sequence[str],
) -> None:
    """Refuse lists that name nothing, something twice, or what is not there."""
    if trials < 1:
        raise InputValueError(f"lab2: trials={trials} is below 1.")
    for name, values in (("only", only), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise InputValueError(f"lab2: {name}={list(values)} is empty or has a value twice.")
    if unknown := [name for name in only if name not in samplers]:
        meant = did_you_mean(unknown[0], samplers) or ";"
        raise InputValueError(
            f"lab2: only={list(only)} names {unknown[0]!r}, which is no sampler{meant} there are "
            f"{', '.join(samplers)}."
        )
    if unknown := [name for name in minimise if name not in BUDGETS]:
        meant = did_you_mean(unknown[0], BUDGETS) or ";"
        raise InputValueError(
            f"lab2: minimise={list(minimise)} names {unknown[0]!r}, which is no cost{meant} there "
            f"are {', '.join(BUDGETS)}."
        )
    if min(seeds) < 0:
        raise InputValueError(f"lab2: seeds={list(seeds)} has one below 0.")


def steps_of(models: Mapping[str, Row]) -> dict[str, str]:
    """The step that has the answers of each model; see :mod:`lightning_adls.labs.judging`."""
    return {
        name: f"{'compressed/' if name == 'compressed' else ''}{row['study']}/{row['trial']}"
        for name, row in models.items()
    }


def named(rows: Mapping[str, Row]) -> list[Row]:
    """Rows with their names in them."""
    return [{"name": name, **row} for name, row in rows.items()]


def show(ranking: Mapping[str, Row], rows: Mapping[str, Row], alike: Row, folder: Path) -> None:
    """Print the tables of both tasks."""
    console.print(table("Task 1: samplers", named(ranking), RANKING))
    console.print(table("Task 2: accuracy of the best models", named(rows), ACCURACIES))
    console.print(table("Task 2: cost of the best models", named(rows), COSTS))
    for name, row in rows.items():
        sizes = {k: v for k, v in row["architecture"].items() if k != "identities"}
        text = ", ".join(f"{key} {value}" for key, value in sizes.items())
        dropped = len(row["architecture"]["identities"])
        console.print(f"{name}: {text}, {dropped} identities", highlight=False, soft_wrap=True)
    if alike:
        console.print(in_a_line(alike, rows), highlight=False, soft_wrap=True)
    console.print(f"Figures, trials and checkpoints: {folder}", soft_wrap=True)


def main(arguments: Sequence[str]) -> None:
    """Run the lab as a command line says."""
    cli.run(
        run_lab,
        defaults_of("lab2"),
        # The architecture is what is searched.
        {**TASK_ARGUMENTS, "model": (NetworkFactory, {"checkpoint", *FROM_DATA, *DIMENSIONS})},
        arguments=arguments,
    )

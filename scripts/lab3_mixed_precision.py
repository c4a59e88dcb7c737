"""Lab 3: search a number format for every tensor of every linear layer of a network.

Each study searches one family of formats: every layer chooses its own formats and parameters, the
model is quantised, trained within a budget and validated. Run:

    python scripts/lab3_mixed_precision.py
    python scripts/lab3_mixed_precision.py --config configs/lab3_low_bit.yaml --run low_bit
    python scripts/lab3_mixed_precision.py --config configs/lab3_mase.yaml
    python scripts/lab3_mixed_precision.py --sampler optuna.samplers.NSGAIISampler --run genetic
    python scripts/lab3_mixed_precision.py --data configs/data/imdb.yaml \
        --model.checkpoint prajjwal1/bert-tiny --run imdb

The same command continues an interrupted run and repeats nothing that is done.
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from optuna.pruners import BasePruner
from rich.console import Console

from lightning_adls import report, search
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.drawing import draw
from lightning_adls.labs.drawing.lab3 import draw_running_best
from lightning_adls.labs.factories import CallbackFactory, LoggerFactory
from lightning_adls.labs.judging import test, tested, weights_of
from lightning_adls.labs.model_run import START, ModelRun
from lightning_adls.labs.rows.columns import accuracy
from lightning_adls.labs.rows.trials import TrialTable, total_seconds
from lightning_adls.labs.searching import searching
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.tables import table
from lightning_adls.labs.task import TASK_ARGUMENTS, Task
from lightning_adls.layers import builder
from lightning_adls.models import NetworkFactory
from lightning_adls.report import Row
from lightning_adls.search import Budget, FormatSpace, Objective, SamplerFactory, Search
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import linear_layers, match

HERE = Path(__file__).resolve()
# Arguments in which calls of one run may differ. (Each study remembers its own space and whether it
# is trained.)
PASSING = {
    *("storage", "trials", "only", "figures"),
    *("studies", "precisions", "ranges", "train", "untrained"),
}
COLUMNS = {
    "study": ("study", ""),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
    "bits_per_weight": ("bits/w", ".2f"),
    "trials": ("trials", "d"),
    "pruned": ("pruned", "d"),
    "failed": ("failed", "d"),
    "seconds": ("s", ".0f"),
}

Template = str | dict[str, str | None] | None
Searches = Mapping[str, Search[Quantize]]
console = Console()


def main(
    config_yaml: str,
    data: Callable[..., TextData],
    model: NetworkFactory,
    classifier: Callable[..., TextClassifier],
    precisions: dict[str, Template],
    ranges: dict[str, list[int | str | tuple[int, ...]]],
    studies: dict[str, list[str]],
    figures: dict[str, list[str]],
    layers: list[str],
    untrained: list[str],
    budget: Budget,
    sampler: SamplerFactory,
    pruner: BasePruner,
    callbacks: list[CallbackFactory],
    logger: list[LoggerFactory],
    finetune: Budget | None = None,
    weights: str | None = None,
    train: bool = True,
    backend: Literal["standard", "mase", "chop"] = "standard",
    share: bool = False,
    trials: int = 24,
    only: list[str] | None = None,
    seed: int = 0,
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
        finetune: Budget of a fine-tune in full precision from which all trials start.
        weights: A checkpoint to start from instead, written by scripts/train.py.
        train: Train after quantising; if false, the trials of all studies only evaluate.
        backend: What computes with rounded numbers: standard, mase (as MASE does, faults included)
            or chop (MASE itself).
        share: Make one choice for all layers instead of one for each.
        trials: Trials of each study.
        only: The studies to run now; by default all.
        seed: Of everything.
        run: Name of the folder in lightning_logs/lab3.
        storage: URL of an Optuna storage; by default a journal file in the run's folder.
    """
    only = list(studies) if only is None else only
    check_names(studies, "precision", precisions)
    check_names({"only": only, **figures}, "study", studies)
    check_names({"untrained": untrained} if untrained else {}, "study", studies)
    builder(backend)
    FormatSpace.from_templates(layers, precisions, ranges)  # also those of no study
    task = Task(
        data,
        model,
        classifier,
        seed=seed,
        budgets=[budget],
        callbacks=callbacks,
        loggers=logger,
        finetune=finetune,
        weights=weights,
    )
    found = list(match(linear_layers(task.network), dict.fromkeys(layers), "layers"))
    spaces = {
        name: FormatSpace.from_templates(
            layers if share else found, {p: precisions[p] for p in members}, ranges
        )
        for name, members in studies.items()
    }
    for space in spaces.values():
        space.check_backend(backend)
        search.make_sampler(sampler, space, seed)

    def build(recipe: Quantize) -> TextClassifier:
        return task.build(replace(recipe, backend=backend))

    with (
        ModelRun("lab3", run, config_yaml, task, passing=PASSING) as lab,
        search.open_storage(storage or lab.folder / "search.journal") as store,
    ):
        bars, searches = search.Bars(console), dict[str, Search[Quantize]]()
        val_rows = task.texts.row_counts["val"]
        results = TrialTable(lab.folder / "results.csv", searches, val_rows, "recipe")
        for name, space in spaces.items():
            trained = train and name not in untrained
            fingerprint = {"space": space.to_dict(), "train": trained, **lab.settings}
            full_name = f"lab3/{run}/{name}" if storage else name
            objective = Objective(
                space,
                build,
                task.texts,
                budget,
                lab.folder / name,
                seed,
                trained,
                callbacks=task.callbacks,
                loggers=task.loggers,
            )
            study = search.open_study(store, full_name, fingerprint, pruner)
            searches[name] = Search(study, objective, sampler, trials, seed, [results, bars])
        for name in only:
            searches[name].check_free()
        lab.begin()
        console.print(f"{len(found)} linear layers; {len(only)} studies of up to {trials} trials")
        lab.start(budget)
        with searching(bars):
            for name in only:
                searches[name].run()
                results.write()  # also where all trials were there already
                log(searches, lab.folder)
                draw_running_best(StoredRun.read(lab.folder))
        rows = write_summary(lab, searches, only, backend)
        results.write()
        draw(StoredRun.read(lab.folder))
    ranked = sorted(rows, key=lambda row: -(row["val_accuracy"] or 0))
    console.print(table("Best of each study", ranked, COLUMNS))
    console.print(f"Figures, recipes and checkpoints: {lab.folder}", soft_wrap=True)


def check_names(groups: Mapping[str, list[str]], what: str, known: Collection[str]) -> None:
    """Refuse groups of what is not there, and groups of nothing."""
    there = f"there are {', '.join(known)}."
    for name, members in groups.items():
        for member in members:
            if member not in known:
                raise InputValueError(
                    f"lab3: {name!r} names {member!r}, which is no {what}; {there}"
                )
        if not members:
            raise InputValueError(f"lab3: {name!r} names no {what}; {there}")


def log(searches: Searches, folder: Path) -> None:
    """The running best of all studies so far, as TensorBoard curves."""
    curves = {name: each.curve for name, each in searches.items()}
    report.log_curves(folder / "running_best", "search/running_best", curves)


def write_summary(
    lab: ModelRun, searches: Searches, only: Collection[str], backend: str
) -> list[Row]:
    """Test the best model of each study that was run, and write what is known of all.

    Other studies, and those of other machines, are shown with what the storage knows.
    """
    rows: dict[str, Any] = {}
    for name, each in searches.items():
        if not each.counted:
            continue
        found = search.summary(each.study)
        rows[name] = accuracy("val", found.pop("best_value"), lab.task.texts.row_counts["val"])
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
            "best_recipe": str(recipe),
            "best_checkpoint": weights and str(weights.relative_to(lab.folder)),
        }
    known = about(lab, lab.task, total_seconds(searches))
    start = accuracy("val", lab.rows[START]["accuracy"], lab.task.texts.row_counts["val"])
    report.write_json(lab.folder / "summary.json", {**known, "start": start, "results": rows})
    return [{"study": name, **row} for name, row in rows.items()]


if __name__ == "__main__":
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        TASK_ARGUMENTS,
    )

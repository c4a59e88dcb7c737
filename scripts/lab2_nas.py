"""Lab 2: search the architecture of a BERT, then search it anew for what survives compression.

Task 1 compares samplers on the same space. Task 2 searches with the best of them twice more, and
judges each model after it was quantised and pruned: as it is, and trained again. Run:

    python scripts/lab2_nas.py
    python scripts/lab2_nas.py --seeds '[0, 1, 2]' --run seeds
    python scripts/lab2_nas.py --space.identities search --samplers '[random, tpe]' --run identities
    python scripts/lab2_nas.py --config configs/lab2_imdb.yaml

The same command continues an interrupted run and repeats nothing that is done.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import lightning as L
import optuna
from lightning.fabric.utilities.exceptions import MisconfigurationException
from optuna.storages import BaseStorage
from rich.console import Console
from rich.progress import Progress
from torch import nn

from lightning_adls import report, search
from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputError
from lightning_adls.labs import cli, runs
from lightning_adls.labs.tables import table
from lightning_adls.ledger import Ledger, Row, open_ledger
from lightning_adls.models import FROM_DATA, NetworkFactory, check_length, reuse_weights
from lightning_adls.search import Architecture, ArchitectureSpace, Limits, Objective
from lightning_adls.transforms import Prune, Quantize, costs
from lightning_adls.transforms.cost import count_parameters

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab2")

# Two calls of one run may differ in these: each study is stored under what it depends on.
PASSING = {"run", "storage", "trials", "samplers", "seeds"}

# The three searches, and their names in the figure.
PLAIN, COMPRESSED, RETRAINED = "plain", "aware", "aware_retrained"
LABELS = {
    PLAIN: "no compression",
    COMPRESSED: "compression-aware",
    RETRAINED: "compression-aware, trained again",
}

# The models that are compared in the end: the search that found each, whether it is compressed now.
MODELS = {
    "plain": (PLAIN, False),
    "compressed": (PLAIN, True),
    "aware": (COMPRESSED, False),
    "aware_retrained": (RETRAINED, False),
}
DIMENSIONS = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")

Sampler = Literal["grid", "random", "tpe"]
Template = str | dict[str, str | None] | None
Studies = dict[int, optuna.Study]  # of one search, by seed
console = Console()


@dataclass(frozen=True)
class Lab:
    """How the models of all searches are made and judged."""

    model: Callable[..., nn.Module]
    classifier: Callable[..., TextClassifier]
    texts: TextData
    space: ArchitectureSpace
    budget: Budget
    recipe: Quantize
    prune: Prune
    retrain: Budget
    limits: Limits | None
    reuse: Sequence[str]
    folder: Path

    def build(self, architecture: Architecture) -> TextClassifier:
        """A classifier of this architecture, on pre-trained weights where they fit."""
        texts = self.texts
        make = partial(
            self.model,
            num_classes=texts.num_classes,
            vocab_size=texts.vocab_size,
            pad_token_id=texts.pad_token_id,
        )
        network = architecture.build(make)
        for checkpoint in self.reuse:
            reuse_weights(network, checkpoint)
        return self.classifier(network, num_classes=texts.num_classes)

    def compress(self, module: L.LightningModule) -> None:
        """Quantise and prune a trained classifier."""
        network = module.get_submodule("model")
        self.recipe(network)
        self.prune(network)

    def objective(self, kind: str, sampler: str, seed: int) -> Objective[Architecture]:
        """How one search judges an architecture."""
        return Objective(
            self.space,
            self.build,
            self.texts,
            self.budget,
            self.folder / kind / sampler / str(seed),
            seed,
            compress=None if kind == PLAIN else self.compress,
            retrain=self.retrain if kind == RETRAINED else None,
            limits=self.limits,
        )


@dataclass(frozen=True)
class Searches:
    """Runs searches, one study for each seed; each trial is on disk when it has ended."""

    lab: Lab
    store: BaseStorage
    prefix: str
    settings: Mapping[str, Any]
    trials: int
    startup_trials: int
    prune_after: int
    seeds: Sequence[int]
    bars: Progress
    studies: dict[str, optuna.Study] = field(default_factory=dict)

    def run(self, kind: str, sampler: str) -> Studies:
        """Run what is missing of a search."""
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=self.prune_after)
        found = {}
        for seed in self.seeds:
            name = f"{kind}/{sampler}/{seed}"
            settings = {**self.settings, "search": kind, "sampler": sampler, "seed": seed}
            study = search.open_study(self.store, self.prefix + name, settings, pruner)
            found[seed] = self.studies[name] = study
            search.run_shown(
                self.bars,
                name,
                study,
                self.lab.objective(kind, sampler, seed),
                self.trials,
                sampler,
                seed,
                after_trial=lambda _: self.write(),
                startup_trials=self.startup_trials,
            )
        return found

    def write(self) -> None:
        """Write the rows of all trials."""
        report.write_csv(self.lab.folder / "results.csv", search.trial_rows(self.studies))


def main(
    config_yaml: str,
    data: Callable[..., TextData],
    model: Callable[..., nn.Module],
    classifier: Callable[..., TextClassifier],
    space: ArchitectureSpace,
    samplers: list[Sampler],
    seeds: list[int],
    budget: Budget,
    quantize: dict[str, Template],
    prune: Prune,
    retrain: Budget,
    limits: Limits | None = None,
    reuse: list[str] | None = None,
    trials: int = 8,
    startup_trials: int = 4,
    prune_after: int = 25,
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
        samplers: Task 1 compares them.
        seeds: Each search is run once per seed, which is that of its sampler and of its trials.
        budget: What each trial may spend before compression.
        quantize: Task 2: number formats by shell pattern over names of layers.
        prune: Task 2: how many weights are set to zero, and which.
        retrain: Task 2: what a trial may spend after compression, where it trains again.
        limits: What a model may cost; one that costs more is not trained.
        reuse: Pre-trained BERTs, on the hub or in folders. Every model starts from those of their
            weights that have the name and shape of its own.
        trials: Trials of each search and seed.
        startup_trials: First trials that tpe draws at random, to learn from; they are those of the
            sampler random.
        prune_after: Percent of its budget that a trial spends before it can be pruned; at 100 none
            is.
        run: Name of the folder in lightning_logs/lab2.
        storage: URL of an Optuna storage; by default a journal file in the run's folder.
    """
    folder = LOGS / run
    with ExitStack() as stack:
        with cli.refusing(MisconfigurationException):
            check_arguments(samplers, seeds, trials, startup_trials, prune_after)
            for sampler in samplers:
                search.make_sampler(sampler, space, 0)
            with cli.refusing(ValueError):  # of Lightning, which says it so
                for each in (budget, retrain):
                    each.trainer(1)
            recipe = Quantize(quantize)
            texts = data()
            texts.prepare_data()
            texts.setup("fit")
            lab = Lab(
                model=model,
                classifier=classifier,
                texts=texts,
                space=space,
                budget=budget,
                recipe=recipe,
                prune=prune,
                retrain=retrain,
                limits=limits,
                reuse=reuse or [],
                folder=folder,
            )
            check_models(lab)
            folder.mkdir(parents=True, exist_ok=True)
            settings = runs.settings_of(config_yaml, passing=PASSING)
            ledger = stack.enter_context(open_ledger(folder / "ledger.json", settings))
            store = stack.enter_context(search.open_storage(storage or folder / "search.journal"))
        (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
        console.print(f"{space.points} architectures; searches of up to {trials} trials")
        with search.study_bars(console) as bars:
            searches = Searches(
                lab=lab,
                store=store,
                prefix=f"lab2/{run}/" if storage else "",
                settings=settings,
                trials=trials,
                startup_trials=startup_trials,
                prune_after=prune_after,
                seeds=seeds,
                bars=bars,
            )
            ranking, plain = compare_samplers(searches, samplers)
            best = next(iter(ranking))
            found = search_compressed(searches, best, plain)
        models = judge_best(lab, ledger, best, found)
        searches.write()
        summary = {"samplers": ranking, "models": models}
        report.write_json(folder / "summary.json", summary)
    show(ranking, models, folder)


def check_arguments(
    samplers: Sequence[str],
    seeds: Sequence[int],
    trials: int,
    startup_trials: int,
    prune_after: int,
) -> None:
    """Refuse numbers out of range and lists that name nothing, or something twice."""
    for name, least in (("trials", trials), ("startup_trials", startup_trials)):
        if least < 1:
            raise InputError(f"lab2: {name}={least} is below 1.")
    if not 0 <= prune_after <= 100:
        raise InputError(f"lab2: prune_after={prune_after} is not in 0..100.")
    for name, values in (("samplers", samplers), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"lab2: {name}={list(values)} is empty or has a value twice.")
    if min(seeds) < 0:
        raise InputError(f"lab2: seeds={list(seeds)} has one below 0.")


def check_models(lab: Lab) -> None:
    """Refuse what no model of the space can do: read the texts, be compressed, reuse weights."""
    space, taken = lab.space, {}
    for hidden_size in space.hidden_size:
        smallest = Architecture(
            num_hidden_layers=min(space.num_hidden_layers),
            num_attention_heads=min(space.num_attention_heads),
            hidden_size=hidden_size,
            intermediate_size=min(space.intermediate_size),
        )
        module = lab.build(smallest)
        check_length(module.model, lab.texts.max_length)
        shares = [reuse_weights(module.model, name) for name in lab.reuse]
        taken[hidden_size] = max(shares, default=0) / count_parameters(module.model)
        lab.compress(module)
    if lab.reuse and not any(taken.values()):
        raise InputError(
            f"lab2: reuse={list(lab.reuse)} has no weights for any of "
            f"hidden_size={list(space.hidden_size)}; add the checkpoint's hidden_size."
        )
    for hidden_size, share in taken.items() if lab.reuse else ():
        console.print(f"hidden_size {hidden_size}: {share:.0%} of the smallest model is reused")


def compare_samplers(searches: Searches, samplers: Sequence[str]) -> tuple[dict[str, Row], Studies]:
    """Task 1: search with each sampler; returns their ranking and the studies of the best one."""
    found: dict[str, Studies] = {}
    for sampler in samplers:
        found[sampler] = searches.run(PLAIN, sampler)
        draw(searches.lab.folder, "samplers", "Samplers on the same space", found)
    ranking = rank(found)
    best = next(iter(ranking))
    if ranking[best]["mean_best"] is None:
        cli.refuse(
            "lab2: with no sampler did each seed complete a trial; the reasons are in "
            f"{searches.lab.folder / 'results.csv'}."
        )
    return ranking, found[best]


def rank(found: Mapping[str, Studies]) -> dict[str, Row]:
    """The samplers, the best first: by the mean of their best values, then the trials to reach it.

    Of equals the one that comes first in ``found`` is the better; one that completed no trial for
    some seed is the worst.
    """
    ranking: dict[str, Row] = {}
    for sampler, studies in found.items():
        curves = [search.best_curve(study) for study in studies.values()]
        reached = [next(n for n, y in curve if y == curve[-1][1]) for curve in curves if curve]
        ranking[sampler] = {
            "mean_best": fmean(curve[-1][1] for curve in curves) if all(curves) else None,
            "trials_to_best": fmean(reached) if all(curves) else None,
            "best_by_seed": {
                seed: curve[-1][1] if curve else None
                for seed, curve in zip(studies, curves, strict=True)
            },
        }

    def place(sampler: str) -> tuple[float, float]:
        mean, trials = ranking[sampler]["mean_best"], ranking[sampler]["trials_to_best"]
        return (inf, inf) if mean is None else (-mean, trials)

    return {sampler: ranking[sampler] for sampler in sorted(ranking, key=place)}


def search_compressed(searches: Searches, sampler: str, plain: Studies) -> dict[str, Studies]:
    """Task 2: the same search, judged after compression; returns it beside that of task 1."""
    found = {PLAIN: plain}
    for kind in (COMPRESSED, RETRAINED):
        found[kind] = searches.run(kind, sampler)
        labelled = {LABELS[kind]: studies for kind, studies in found.items()}
        title = f"Compression-aware search with the sampler {sampler}"
        draw(searches.lab.folder, "compression_aware", title, labelled)
    return found


def draw(folder: Path, file: str, title: str, found: Mapping[str, Studies]) -> None:
    """Draw the running best of searches, over their seeds, as PNG and as TensorBoard curves."""
    together = {
        name: report.mean_and_range([search.best_curve(study) for study in studies.values()])
        for name, studies in found.items()
    }
    seeds = max(len(studies) for studies in found.values())
    report.draw_curves(
        folder / f"{file}.png",
        {name: mean for name, (mean, _) in together.items()},
        bands={name: spans for name, (_, spans) in together.items()} if seeds > 1 else None,
        title=title + (f": mean and range of {seeds} seeds" if seeds > 1 else ""),
        x_label="number of trials",
        y_label="best validation accuracy so far",
    )
    curves = {name: mean for name, (mean, _) in together.items()}
    report.log_curves(folder / "running_best" / file, "search/running_best", curves)


def judge_best(
    lab: Lab, ledger: Ledger, sampler: str, found: Mapping[str, Studies]
) -> dict[str, Row]:
    """The best model of each search, each read with the test split once.

    That of task 1 is judged as it is, and again when it is compressed without more training.
    """
    models: dict[str, Row] = {}
    for model, (kind, compress) in MODELS.items():
        studies = {seed: search.best_trial(study) for seed, study in found[kind].items()}
        bests = {seed: trial for seed, trial in studies.items() if trial is not None}
        if not bests:
            continue
        seed = max(bests, key=lambda seed: bests[seed].value or 0.0)
        objective, trial = lab.objective(kind, sampler, seed), bests[seed]
        study = f"{kind}/{sampler}/{seed}"
        models[model] = {
            "study": study,
            "trial": trial.user_attrs["index"] + 1,
            "architecture": trial.user_attrs["recipe"],
            "checkpoint": f"{study}/{trial.user_attrs['checkpoint']}",
            **ledger.once(
                f"{model}/{study}/{trial.user_attrs['index'] + 1}",
                partial(judge, lab, objective, trial, compress),
            ),
        }
    return models


def judge(
    lab: Lab, objective: Objective[Architecture], trial: optuna.trial.FrozenTrial, compress: bool
) -> Row:
    """Accuracies and costs of the model that a trial ended with, compressed first if asked for."""
    module = cast(TextClassifier, objective.load(trial))
    before = trial.user_attrs.get("before_compression")
    if compress:
        before = trial.value
        lab.compress(module)
    return {
        "before_compression": before,
        "accuracy": runs.validate(module, lab.texts, lab.budget),
        "test_accuracy": runs.test(module, lab.texts, lab.budget),
        **costs(module.model),
    }


def show(ranking: Mapping[str, Row], models: Mapping[str, Row], folder: Path) -> None:
    """Print the tables of both tasks."""
    samplers = {
        "name": ("sampler", ""),
        "mean_best": ("best val acc.", ".4f"),
        "trials_to_best": ("after trials", ".1f"),
    }
    console.print(
        table("Task 1: samplers", [{"name": k, **row} for k, row in ranking.items()], samplers)
    )
    # Fits into 80 columns, the width of a log file.
    columns = {
        "name": ("model", ""),
        "before_compression": ("before", ".4f"),
        "accuracy": ("val", ".4f"),
        "test_accuracy": ("test", ".4f"),
        "parameters": ("parameters", ","),
        "size_mb": ("MB", ".3f"),
        "bits_per_weight": ("bits/w", ".2f"),
        "sparsity": ("zeros", ".2f"),
    }
    rows = [{"name": name, **row} for name, row in models.items()]
    console.print(table("Task 2: accuracy and cost of the best models", rows, columns))
    for name, row in models.items():
        sizes = {k: v for k, v in row["architecture"].items() if k != "identities"}
        text = ", ".join(f"{key} {value}" for key, value in sizes.items())
        dropped = len(row["architecture"]["identities"])
        console.print(f"{name}: {text}, {dropped} identities", highlight=False, soft_wrap=True)
    console.print(f"Figures, trials and checkpoints: {folder}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        {
            "data": (TextData, set()),
            "model": (NetworkFactory, {"checkpoint", *FROM_DATA, *DIMENSIONS}),
            "classifier": (TextClassifier, {"model", "transforms", "num_classes"}),
        },
    )

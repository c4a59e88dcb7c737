"""Lab 3: search a number format for every tensor of every linear layer of a BERT.

Each study searches one family of formats: every layer chooses its own formats and parameters, the
model is quantised, trained within a budget and validated. Run:

    python scripts/lab3_mixed_precision.py
    python scripts/lab3_mixed_precision.py --config configs/lab3_low_bit.yaml --run low_bit
    python scripts/lab3_mixed_precision.py --config configs/lab3_mase.yaml
    python scripts/lab3_mixed_precision.py --data configs/data/imdb.yaml \
        --model.checkpoint prajjwal1/bert-tiny --run imdb

The same command continues an interrupted run and repeats nothing that is done.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import optuna
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from lightning_adls import report, search
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputError
from lightning_adls.labs import cli, runs
from lightning_adls.labs.tables import table
from lightning_adls.layers import builder
from lightning_adls.models import FROM_DATA, NetworkFactory, check_length
from lightning_adls.search import Budget, FormatSpace, Objective
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import linear_layers, match

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab3")

# Two calls that differ in these alone continue the same search. (Each study remembers its own
# space and whether it is trained, and the content of the weights, not their path.)
PASSING = {"run", "storage", "trials", "only", "figures"}
OF_EACH_STUDY = {"studies", "precisions", "ranges", "train", "untrained"}

Template = str | dict[str, str | None] | None
Studies = Mapping[str, optuna.Study]
console = Console()


def main(
    config_yaml: str,
    data: Callable[..., TextData],
    model: Callable[..., nn.Module],
    classifier: Callable[..., TextClassifier],
    precisions: dict[str, Template],
    ranges: dict[str, list[int | str | tuple[int, ...]]],
    studies: dict[str, list[str]],
    figures: dict[str, list[str]],
    layers: list[str],
    untrained: list[str],
    budget: Budget,
    finetune: Budget | None = None,
    weights: str | None = None,
    train: bool = True,
    backend: Literal["standard", "mase", "chop"] = "standard",
    share: bool = False,
    trials: int = 24,
    only: list[str] | None = None,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    startup_trials: int = 10,
    prune_after: int = 25,
    seed: int = 0,
    run: str = "default",
    storage: str | None = None,
) -> None:
    """Search a number format for every tensor of every linear layer of a BERT.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The BERT: a checkpoint or dimensions.
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
        finetune: Budget of a fine-tune in full precision from which all trials start.
        weights: A checkpoint to start from instead, written by scripts/train.py.
        train: Train after quantising; if false, the trials of all studies only evaluate.
        backend: What computes with rounded numbers: standard, mase (as MASE does, faults included)
            or chop (MASE itself).
        share: Make one choice for all layers instead of one for each.
        trials: Trials of each study.
        only: The studies to run now; by default all.
        sampler: What proposes the trials.
        startup_trials: First trials of a study that tpe draws at random, to learn from.
        prune_after: Percent of its budget that a trial spends before it can be pruned; at 100 none
            is.
        seed: Of everything.
        run: Name of the folder in lightning_logs/lab3.
        storage: URL of an Optuna storage; by default a journal file in the run's folder.
    """
    folder = LOGS / run
    with ExitStack() as stack:
        with cli.refusing(MisconfigurationException):
            only = list(studies) if only is None else only
            check_numbers(trials, startup_trials, prune_after)
            check_names(studies, "precision", precisions)
            check_names({"only": only, **figures}, "study", studies)
            if untrained:
                check_names({"untrained": untrained}, "study", studies)
            builder(backend)
            L.seed_everything(seed, verbose=False)
            texts = data(seed=seed)
            texts.prepare_data()
            texts.setup("fit")
            network = model(
                num_classes=texts.num_classes,
                vocab_size=texts.vocab_size,
                pad_token_id=texts.pad_token_id,
            )
            check_length(network, texts.max_length)
            build = partial(build_classifier, classifier, network, texts.num_classes, backend)
            start = build()
            with cli.refusing(ValueError):  # of Lightning, which says it so
                budget.trainer(1)
            names = list(match(linear_layers(network), dict.fromkeys(layers), "layers"))
            spaces = {
                name: FormatSpace.from_templates(
                    layers if share else names, {p: precisions[p] for p in members}, ranges
                )
                for name, members in studies.items()
            }
            for space in spaces.values():
                space.check_backend(backend)
                search.make_sampler(sampler, space, seed)
            if weights is not None:
                start.load_weights(weights)
            trained = {name: train and name not in untrained for name in studies}
            folder.mkdir(parents=True, exist_ok=True)
            store = stack.enter_context(search.open_storage(storage or folder / "search.journal"))
            prefix = f"lab3/{run}/" if storage else ""
            settings = runs.settings_of(
                config_yaml, passing=PASSING | OF_EACH_STUDY, weights=weights
            )
            opened = open_studies(store, prefix, spaces, trained, settings, prune_after)
        (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
        console.print(f"{len(names)} linear layers; {len(only)} studies of up to {trials} trials")
        if weights is None and finetune is not None:
            runs.fine_tune(start, texts, finetune, folder, seed)
        network.load_state_dict(start.model.state_dict())
        objectives = {
            name: Objective(space, build, texts, budget, folder / name, seed, trained[name])
            for name, space in spaces.items()
            if name in only
        }
        run_studies(opened, objectives, trials, sampler, seed, startup_trials, figures, folder)
        test_best(opened, objectives, texts)
        results = write_summary(opened, backend, folder)
    show(results, folder)


def check_numbers(trials: int, startup_trials: int, prune_after: int) -> None:
    """Refuse numbers out of range."""
    for name, count in (("trials", trials), ("startup_trials", startup_trials)):
        if count < 1:
            raise InputError(f"lab3: {name}={count} is below 1.")
    if not 0 <= prune_after <= 100:
        raise InputError(f"lab3: prune_after={prune_after} is not in 0..100.")


def check_names(groups: Mapping[str, list[str]], what: str, known: Collection[str]) -> None:
    """Refuse groups of what is not there, and groups of nothing."""
    there = f"there are {', '.join(known)}."
    for name, members in groups.items():
        for member in members:
            if member not in known:
                raise InputError(f"lab3: {name!r} names {member!r}, which is no {what}; {there}")
        if not members:
            raise InputError(f"lab3: {name!r} names no {what}; {there}")


def build_classifier(
    classifier: Callable[..., TextClassifier],
    network: nn.Module,
    num_classes: int,
    backend: str,
    *recipes: Quantize,
) -> TextClassifier:
    """A fresh copy of the network, quantised, in its LightningModule."""
    transforms = [replace(recipe, backend=backend) for recipe in recipes]
    return classifier(copy.deepcopy(network), transforms=transforms, num_classes=num_classes)


def open_studies(
    store: optuna.storages.BaseStorage,
    prefix: str,
    spaces: Mapping[str, FormatSpace],
    trained: Mapping[str, bool],
    settings: Mapping[str, Any],
    prune_after: int,
) -> Studies:
    """Create or continue one study per space."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=prune_after)
    return {
        name: search.open_study(
            store,
            prefix + name,
            {"space": space.to_dict(), "train": trained[name], **settings},
            pruner,
        )
        for name, space in spaces.items()
    }


def run_studies(
    studies: Studies,
    objectives: Mapping[str, Objective[Quantize]],
    trials: int,
    sampler: str,
    seed: int,
    startup_trials: int,
    figures: Mapping[str, list[str]],
    folder: Path,
) -> None:
    """Run what is missing of each study; after each trial everything found so far is on disk."""

    def after_trial(_: optuna.Study) -> None:
        report.write_csv(folder / "results.csv", search.trial_rows(studies))

    with search.study_bars(console) as bars:
        for name, objective in objectives.items():
            study = studies[name]
            search.run_shown(
                bars, name, study, objective, trials, sampler, seed, after_trial, startup_trials
            )
            draw(studies, figures, folder)


def draw(studies: Studies, figures: Mapping[str, list[str]], folder: Path) -> None:
    """Draw the running best of all studies so far, as PNG files and as TensorBoard curves."""
    curves = {name: search.best_curve(study) for name, study in studies.items()}
    for file, names in figures.items():
        report.draw_curves(
            folder / f"{file}.png",
            {name: curves[name] for name in names},
            title="Mixed-precision search: best validation accuracy so far",
            x_label="number of trials",
            y_label="validation accuracy",
        )
    report.log_curves(folder / "running_best", "search/running_best", curves)


def test_best(
    studies: Studies, objectives: Mapping[str, Objective[Quantize]], texts: TextData
) -> None:
    """Read the test split, once per study: when all trials are done, with the best model."""
    for name, objective in objectives.items():
        study = studies[name]
        best = search.best_trial(study)
        if best is None or study.user_attrs.get("test", {}).get("trial") == best.number:
            continue
        trainer = objective.budget.trainer(1)
        trainer.test(objective.load(best), datamodule=texts, verbose=False)
        accuracy = trainer.callback_metrics["test/accuracy"].item()
        study.set_user_attr("test", {"trial": best.number, "accuracy": accuracy})


def write_summary(studies: Studies, backend: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Write ``summary.json``, the rows of all trials and the best recipe of each study."""
    results = {}
    for name, study in studies.items():
        if not search.counted_trials(study):
            continue
        results[name] = search.summary(study)
        best = search.best_trial(study)
        if best is None:
            continue
        test = study.user_attrs.get("test", {})
        recipe = Path(name) / "best_recipe.yaml"
        Quantize(best.user_attrs["recipe"], backend=backend).save(folder / recipe)
        results[name] |= {
            "test_accuracy": test["accuracy"] if test.get("trial") == best.number else None,
            "best_recipe": str(recipe),
            "best_checkpoint": str(Path(name) / best.user_attrs["checkpoint"]),
        }
    report.write_csv(folder / "results.csv", search.trial_rows(studies))
    report.write_json(folder / "summary.json", results)
    return results


def show(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Print the table of results, best validation accuracy first."""
    columns = {
        "study": ("study", ""),
        "best_value": ("val acc.", ".4f"),
        "test_accuracy": ("test acc.", ".4f"),
        "bits_per_weight": ("bits/w", ".2f"),
        "trials": ("trials", "d"),
        "pruned": ("pruned", "d"),
        "failed": ("failed", "d"),
        "seconds": ("s", ".0f"),
    }
    ranked = sorted(results.items(), key=lambda item: -(item[1]["best_value"] or 0))
    rows = [{"study": name, **found} for name, found in ranked]
    console.print(table("Best of each study", rows, columns))
    console.print(f"Figures, recipes and checkpoints: {folder}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        {
            "data": (TextData, set()),
            "model": (NetworkFactory, {*FROM_DATA}),
            "classifier": (TextClassifier, {"model", "transforms", "num_classes"}),
        },
    )

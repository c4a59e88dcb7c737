"""Recipes that are taken out of one training for all of them, and the same trained one by one.

Text classification, by default on the built-in reviews with a small BERT. Both start from the same
network, fine-tuned in full precision. Recipes give each linear layer formats for its weights and
inputs: first those of one format everywhere, then some drawn at random. A row has the accuracy of a
recipe in both ways, with standard errors, and the difference, whose error is that of the same rows.
Below are the seconds that both ways take, of the processor where there is no GPU; what a search of
100 recipes would cost beside training these; and whether both rank the recipes alike. At last all
recipes race on the validation rows: judged on ever more rows are only those that may still be the
best, or half of them. With `--test` accuracies are those of the test split, which each model reads
once.

Run:
    python benchmarks/supernet.py
    python benchmarks/supernet.py --widths 2 3 4 8 --recipes 20 --random 1 --no-bounds
    python benchmarks/supernet.py --distill --shared-epochs 4
    python benchmarks/supernet.py --epochs 2 --shared-epochs 2 --test    # of equal length
    python benchmarks/supernet.py --dataset aclImdb --checkpoint prajjwal1/bert-tiny --folder runs

With `--folder` each training that has ended is kept there, and the same command goes on after it.
Other arguments get a folder of their own within it; more `--recipes` are added to those there.
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table
from supernet_trainings import Judged, Trainings, digest

from lightning_adls import Quantize, TextClassifier, TextData, bert
from lightning_adls.budget import Budget
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.labs.cli import quiet
from lightning_adls.labs.ending import ending, refusing
from lightning_adls.labs.task import Task
from lightning_adls.locks import exclusive
from lightning_adls.models import sequence_classifier
from lightning_adls.remaining import Remaining
from lightning_adls.report import write_json
from lightning_adls.search import FormatSpace
from lightning_adls.significance import paired, rank_correlation, standard_error
from lightning_adls.supernet import Subnetworks, SupernetTraining, draw, race, rows_loss, rows_right
from lightning_adls.transforms import costs
from lightning_adls.transforms.walk import linear_layers

# What changes no training.
_FREE = ("recipes", "raced", "folder")
# Recipes of a search, whose cost is told beside that of training them.
_SEARCHED = 100


def main() -> None:
    """Print a row for each recipe, and what both ways cost."""
    arguments = parse_arguments()
    quiet()
    if arguments.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            run(arguments, Path(folder))
        return
    decides = {key: value for key, value in vars(arguments).items() if key not in _FREE}
    folder = arguments.folder / digest(decides)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputValueError(
            f"supernet: folder={str(arguments.folder)!r} cannot be made: {error.strerror}."
        ) from error
    with exclusive(folder / "lock"):
        write_json(folder / "arguments.json", decides)
        run(arguments, folder)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=whole, default=8, help="drawn at random")
    parser.add_argument("--format", default="LearnedInteger", help="whose widths are chosen")
    parser.add_argument("--widths", type=positive, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--epochs", type=float, default=1.0, help="of each training alone")
    parser.add_argument("--shared-epochs", type=float, default=2.0, help="of the one for all")
    parser.add_argument("--finetune-epochs", type=float, default=1.0, help="in full precision")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of all trainings")
    parser.add_argument("--random", type=whole, default=2, help="recipes drawn for each step")
    parser.add_argument("--no-bounds", action="store_true", help="only those drawn at random")
    parser.add_argument("--distill", action="store_true", help="the largest teaches the others")
    parser.add_argument("--test", action="store_true", help="compare on the test split")
    parser.add_argument("--raced", type=whole, default=0, help="further recipes that only race")
    parser.add_argument("--dataset", default="reviews")
    parser.add_argument("--checkpoint", help="of Transformers; by default a small BERT")
    parser.add_argument("--train-rows", type=positive, default=4096, help="at most")
    parser.add_argument("--val-rows", type=positive, default=2000, help="at most")
    parser.add_argument("--max-length", type=positive, default=64)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--seed", type=whole, default=0, help="of trainings and what is drawn")
    parser.add_argument("--folder", type=Path, help="where what has ended is kept")
    return parser.parse_args()


def whole(text: str) -> int:
    """Parse a number of at least 0."""
    return 0 if text == "0" else positive(text)


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Train what is missing in a folder, and print what was found."""
    finetune, shared, alone = (
        Budget(epochs, reports=1, accelerator=arguments.accelerator)
        for epochs in (arguments.finetune_epochs, arguments.shared_epochs, arguments.epochs)
    )
    task = task_of(arguments, [finetune, shared, alone])
    layers = list(linear_layers(task.network))
    choice = {"input": arguments.format, "weight": arguments.format}
    space = FormatSpace.from_templates(layers, {"": choice}, {"width": arguments.widths})
    recipes = recipes_of(space, arguments.recipes, arguments.seed)
    callback = SupernetTraining(
        space,
        bounds=not arguments.no_bounds,
        random=arguments.random,
        part="model",
        distill=arguments.distill,
        seed=arguments.seed,
    )
    trainings = Trainings(task, space, callback, finetune, shared, alone, arguments.test, folder)
    taken_out, trained = compare(trainings, recipes)
    report(task, recipes, taken_out, trained, "test" if arguments.test else "val")
    supernet, seconds = trainings.supernet
    report_costs(seconds, list(taken_out.values()), list(trained.values()))
    rng = random.Random(arguments.seed + 1)
    more = [draw(space, rng) for _ in range(arguments.raced)]
    report_race(task, [*recipes.values(), *more], supernet)


def task_of(arguments: argparse.Namespace, budgets: Sequence[Budget]) -> Task:
    """The data and the network."""
    data = partial(
        TextData,
        dataset=arguments.dataset,
        tokenizer=arguments.checkpoint,
        max_length=arguments.max_length,
        limit_train=arguments.train_rows,
        limit_val=arguments.val_rows,
    )
    dimensions: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": arguments.max_length,
    }
    network: Any = (
        partial(sequence_classifier, checkpoint=arguments.checkpoint)
        if arguments.checkpoint
        else partial(bert, **dimensions)
    )
    classifier = partial(TextClassifier, learning_rate=arguments.learning_rate)
    return Task(data, network, classifier, seed=arguments.seed, budgets=budgets, loggers=())


def recipes_of(space: FormatSpace, count: int, seed: int) -> dict[str, Quantize]:
    """By name, those of one format everywhere and others at random."""
    (roles,) = space.classes.values()
    uniform = {
        text: Quantize({"*": {"input": text, "weight": text}})
        for text in dict.fromkeys(roles["weight"])
    }
    rng = random.Random(seed)
    return uniform | {f"random {number}": draw(space, rng) for number in range(1, count + 1)}


def compare(
    trainings: Trainings, recipes: dict[str, Quantize]
) -> tuple[dict[str, Judged], dict[str, Judged]]:
    """By name, the recipes out of the shared training and trained alone."""
    say("fine-tuning in full precision")
    trainings.start()
    say("one training for all recipes")
    _, seconds = trainings.supernet
    say(f"one training for all recipes: {seconds:.1f} s")
    shared = {}
    for name, recipe in recipes.items():
        shared[name] = trainings.taken_out(recipe)
        say(f"{name} out of it: {shared[name].accuracy:.4f}, {shared[name].seconds:.1f} s")
    alone, remaining = {}, Remaining()
    for number, (name, recipe) in enumerate(recipes.items(), 1):
        known = trainings.is_trained(recipe)
        alone[name] = trainings.trained_alone(recipe)
        left = remaining.after_one(number, len(recipes), work=0.0 if known else 1.0)
        say(f"{name} alone: {alone[name].accuracy:.4f}, {alone[name].seconds:.1f} s ({left})")
    return shared, alone


def say(line: str) -> None:
    """Print a line now, also where it goes to a file."""
    print(line, flush=True)


def report(
    task: Task,
    recipes: dict[str, Quantize],
    shared: dict[str, Judged],
    alone: dict[str, Judged],
    split: str,
) -> None:
    """Print the accuracies."""
    rows = len(next(iter(alone.values())).right)
    title = f"{rows} {split} rows; {machine(torch.device('cpu'))}"
    headers = ("recipe", "bits/w", "shared", "alone", "shared - alone", "p")
    table = Table(*headers, title=title)
    for name, recipe in recipes.items():
        cells = [
            f"{accuracy:.4f} ± {standard_error(accuracy, rows):.4f}"
            for accuracy in (shared[name].accuracy, alone[name].accuracy)
        ]
        told = paired(
            list(shared[name].right.values()),
            [alone[name].right[row] for row in shared[name].right],
        )
        cells += [f"{told.value:+.4f} ± {told.standard_error:.4f}", f"{told.p_value:.3f}"]
        table.add_row(name, f"{costs(task.build(recipe))['bits_per_weight']:.2f}", *cells)
    Console(width=120).print(table)
    first, second = ([found[name].accuracy for name in recipes] for found in (shared, alone))
    ranks, mean = rank_correlation(first, second), fmean(first) - fmean(second)
    print(
        f"Shared - alone: {mean:+.4f} on average. "
        f"Rank correlation: {ranks.value:.2f} (p={ranks.p_value:.4f})."
    )


def report_costs(seconds: float, shared: Sequence[Judged], alone: Sequence[Judged]) -> None:
    """Print what was spent, and what a search would take."""
    judged, trained = (sum(each.seconds for each in found) for found in (shared, alone))
    print(
        f"Shared: {seconds:.1f} s of training and {judged:.1f} s of evaluation. "
        f"One by one: {trained:.1f} s, {trained / (seconds + judged):.2f} times as much."
    )
    search = seconds + _SEARCHED * judged / len(shared)
    each = _SEARCHED * trained / len(alone)
    print(
        f"A search of {_SEARCHED} recipes takes {search:.0f} s, to train them {each:.0f} s: "
        f"1 : {each / search:.1f}."
    )


def report_race(task: Task, recipes: list[Quantize], supernet: TextClassifier) -> None:
    """Print what races read and take beside judging all recipes on all rows, and what they find."""
    batches = list(task.texts.val_dataloader())
    subnetworks = Subnetworks(supernet.cpu(), part="model")

    began = process_time()
    with torch.inference_mode():
        accuracies = []
        for recipe in recipes:
            module = subnetworks(recipe).eval()
            right = torch.cat([rows_right(module, batch) for batch in batches])
            accuracies.append(float(right.float().mean()))
    whole = process_time() - began
    rows = task.texts.row_counts["val"]
    title = f"Races of {len(recipes)} recipes; the best has {max(accuracies):.4f}"
    headers = ("judged by", "keep", "of the rows", "of the time", "left", "accuracy of its best")
    table = Table(*headers, title=title)
    for judge, keep in product((rows_right, rows_loss), (1.0, 0.5)):
        began = process_time()
        found = race(subnetworks, recipes, batches, judge, keep=keep)
        took = process_time() - began
        left = {place: each.mean for place, each in enumerate(found) if each.left}
        best = (max if judge is rows_right else min)(left, key=left.__getitem__)
        table.add_row(
            judge.__name__,
            f"{keep}",
            f"{sum(len(each.rows) for each in found) / len(recipes) / rows:.0%}",
            f"{took / whole:.0%}",
            f"{len(left)}",
            f"{accuracies[best]:.4f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    with ending("with --folder the same command continues"), refusing(MissingFileError):
        main()

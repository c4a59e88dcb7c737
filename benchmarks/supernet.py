"""Recipes that are taken out of one training for all of them, and the same trained one by one.

Text classification, by default on the built-in reviews with a small BERT. Both start from the same
network, fine-tuned in full precision. Recipes are drawn at random from formats for the weights and
inputs of each linear layer; for each format there is one that has it everywhere. A row has the
accuracy of a recipe, with its standard error, and the seconds that were spent on it alone; then
come the seconds of both ways and whether they rank the recipes alike. At last all recipes race on
the validation rows: judged on ever more rows are only those that may still be the best. With
`--test` accuracies are those of the test split, which each model reads once.

Run:
    python benchmarks/supernet.py
    python benchmarks/supernet.py --widths 2 3 4 8 --recipes 20 --random 1 --no-bounds
    python benchmarks/supernet.py --distill --shared-epochs 4
    python benchmarks/supernet.py --epochs 2 --shared-epochs 2 --test    # of equal length
    python benchmarks/supernet.py --dataset aclImdb --checkpoint prajjwal1/bert-tiny
"""

import argparse
import random
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table

from lightning_adls import Quantize, TextClassifier, TextData, bert
from lightning_adls.budget import Budget
from lightning_adls.labs.cli import quiet
from lightning_adls.labs.task import Task
from lightning_adls.models import sequence_classifier
from lightning_adls.search import FormatSpace
from lightning_adls.significance import rank_correlation, standard_error
from lightning_adls.supernet import Subnetworks, SupernetTraining, draw, extract, race
from lightning_adls.transforms import costs
from lightning_adls.transforms.walk import linear_layers


def main() -> None:
    """Print a row for each recipe, and what both ways cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=positive, default=8, help="drawn at random")
    parser.add_argument("--format", default="LearnedInteger", help="whose widths are chosen")
    parser.add_argument("--widths", type=positive, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--epochs", type=float, default=1.0, help="of each training alone")
    parser.add_argument("--shared-epochs", type=float, default=2.0, help="of the one for all")
    parser.add_argument("--finetune-epochs", type=float, default=1.0, help="in full precision")
    parser.add_argument("--random", type=int, default=2, help="recipes drawn for each step")
    parser.add_argument("--no-bounds", action="store_true", help="only those drawn at random")
    parser.add_argument("--distill", action="store_true", help="the largest teaches the others")
    parser.add_argument("--test", action="store_true", help="compare on the test split")
    parser.add_argument("--raced", type=int, default=0, help="further recipes that only race")
    parser.add_argument("--dataset", default="reviews")
    parser.add_argument("--checkpoint", help="of Transformers; by default a small BERT")
    parser.add_argument("--train-rows", type=positive, default=4096)
    parser.add_argument("--val-rows", type=positive, default=2000)
    parser.add_argument("--max-length", type=positive, default=64)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet()
    task = task_of(arguments)
    layers = list(linear_layers(task.network))
    choice = {"input": arguments.format, "weight": arguments.format}
    space = FormatSpace.from_templates(layers, {"": choice}, {"width": arguments.widths})
    recipes = recipes_of(space, arguments.recipes, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(task, space, recipes, arguments, Path(folder))
    report(task, recipes, found, "test" if arguments.test else "val")
    rng = random.Random(arguments.seed + 1)
    more = [draw(space, rng) for _ in range(arguments.raced)]
    report_race(task, [*recipes, *more], found.supernet)


Judged = list[tuple[float, float]]  # accuracy and seconds of each recipe


@dataclass
class Compared:
    """Both ways, and the one training with its seconds."""

    alone: Judged
    shared: Judged
    supernet: TextClassifier
    seconds: float


def task_of(arguments: argparse.Namespace) -> Task:
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
    return Task(data, network, TextClassifier, seed=arguments.seed, loggers=())


def recipes_of(space: FormatSpace, count: int, seed: int) -> list[Quantize]:
    """Those of one format everywhere, and others at random."""
    (roles,) = space.classes.values()
    uniform = [
        Quantize({"*": {"input": text, "weight": text}}) for text in dict.fromkeys(roles["weight"])
    ]
    rng = random.Random(seed)
    return [*uniform, *(draw(space, rng) for _ in range(count))]


def compare(
    task: Task,
    space: FormatSpace,
    recipes: list[Quantize],
    arguments: argparse.Namespace,
    folder: Path,
) -> Compared:
    """Accuracies and seconds of each recipe in both ways."""
    budget, longer, first = (
        Budget(epochs, reports=1, accelerator=arguments.accelerator)
        for epochs in (arguments.epochs, arguments.shared_epochs, arguments.finetune_epochs)
    )
    start = task.build()
    task.train(start, first, folder, "finetune")
    task.start_from(start)
    alone: Judged = []
    for recipe in recipes:
        module = task.build(recipe)
        trained = task.train(module, budget, folder, "alone")
        accuracy = trained["accuracy"]
        if arguments.test:
            accuracy = task.test(module, budget)["accuracy"]
        alone.append((accuracy, trained["seconds"]))
    supernet = task.build()
    callback = SupernetTraining(
        space,
        bounds=not arguments.no_bounds,
        random=arguments.random,
        part="model",
        distill=arguments.distill,
        seed=arguments.seed,
    )
    seconds = task.train(supernet, longer, folder, "shared", [callback])["seconds"]
    shared: Judged = []
    for recipe in recipes:
        began = perf_counter()
        module = extract(supernet, recipe, "model")
        if arguments.test:
            accuracy = task.test(module, budget)["accuracy"]
        else:
            accuracy = task.validate(module, budget)
        shared.append((accuracy, perf_counter() - began))
    return Compared(alone, shared, supernet, seconds)


def report(task: Task, recipes: list[Quantize], found: Compared, split: str) -> None:
    """Print what was found."""
    alone, shared = found.alone, found.shared
    rows = task.texts.row_counts[split]
    title = f"{rows} {split} rows; {machine(torch.device('cpu'))}"
    table = Table("recipe", "bits/w", "alone", "s", "shared", "s", title=title)
    for number, (recipe, one, other) in enumerate(zip(recipes, alone, shared, strict=True), 1):
        cells = [
            text
            for accuracy, spent in (one, other)
            for text in (f"{accuracy:.4f} ± {standard_error(accuracy, rows):.4f}", f"{spent:.1f}")
        ]
        table.add_row(str(number), f"{costs(task.build(recipe))['bits_per_weight']:.2f}", *cells)
    console = Console(width=120)
    console.print(table)
    each, judged = (sum(spent for _, spent in found) for found in (alone, shared))
    console.print(
        f"One by one: {each:.1f} s. Shared: {found.seconds:.1f} s of training and {judged:.1f} s "
        f"of evaluation, {each / (found.seconds + judged):.2f} times as fast."
    )
    ranks = rank_correlation([a for a, _ in alone], [a for a, _ in shared])
    console.print(f"Rank correlation: {ranks.value:.2f} (p={ranks.p_value:.4f}).")


def report_race(task: Task, recipes: list[Quantize], supernet: TextClassifier) -> None:
    """Print how much of the rows a race reads, and the time beside that of judging all on all."""
    batches = list(task.texts.val_dataloader())
    subnetworks = Subnetworks(supernet.cpu(), part="model")
    seconds: dict[int, float] = {}
    for stages in (1, 5):
        began = perf_counter()
        found = race(subnetworks, recipes, batches, stages=stages)
        seconds[stages] = perf_counter() - began
    read, left = sum(len(each.right) for each in found), sum(each.left for each in found)
    share = read / (len(recipes) * task.texts.row_counts["val"])
    Console(width=120).print(
        f"A race of {len(recipes)} recipes reads {share:.0%} of the rows, in "
        f"{seconds[5] / seconds[1]:.2f} of the time of all; {left} cannot be told from the best."
    )


if __name__ == "__main__":
    main()

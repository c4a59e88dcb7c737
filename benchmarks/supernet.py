"""Recipes that are taken out of one training for all of them, and the same trained one by one.

Text classification, by default on the built-in reviews with a small BERT. Both start from the same
network, fine-tuned in full precision. Recipes are drawn at random from formats for the weights and
inputs of each linear layer; for each format there is one that has it everywhere. A row has the
accuracy of a recipe, with its standard error, and the seconds that were spent on it alone; then
come the seconds of both ways and whether they rank the recipes alike.

Run:
    python benchmarks/supernet.py
    python benchmarks/supernet.py --widths 2 3 4 8 --recipes 20 --random 1 --no-bounds
    python benchmarks/supernet.py --distill --shared-epochs 4
    python benchmarks/supernet.py --dataset aclImdb --checkpoint prajjwal1/bert-tiny
"""

import argparse
import random
import tempfile
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
from lightning_adls.supernet import SupernetTraining, draw, extract
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
        alone, shared, seconds = compare(task, space, recipes, arguments, Path(folder))
    report(task, recipes, alone, shared, seconds)


Judged = list[tuple[float, float]]  # accuracy and seconds of each recipe


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
) -> tuple[Judged, Judged, float]:
    """Accuracies and seconds of each recipe in both ways, and the seconds of the one training."""
    budget, longer, first = (
        Budget(epochs, reports=1, accelerator=arguments.accelerator)
        for epochs in (arguments.epochs, arguments.shared_epochs, arguments.finetune_epochs)
    )
    start = task.build()
    task.train(start, first, folder, "finetune")
    task.start_from(start)
    alone: Judged = []
    for recipe in recipes:
        trained = task.train(task.build(recipe), budget, folder, "alone")
        alone.append((trained["accuracy"], trained["seconds"]))
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
        accuracy = task.validate(extract(supernet, recipe, "model"), budget)
        shared.append((accuracy, perf_counter() - began))
    return alone, shared, seconds


def report(
    task: Task, recipes: list[Quantize], alone: Judged, shared: Judged, seconds: float
) -> None:
    """Print what was found."""
    rows = task.texts.row_counts["val"]
    title = f"{rows} validation rows; {machine(torch.device('cpu'))}"
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
        f"One by one: {each:.1f} s. Shared: {seconds:.1f} s of training and {judged:.1f} s of "
        f"validation, {each / (seconds + judged):.2f} times as fast."
    )
    found = rank_correlation([a for a, _ in alone], [a for a, _ in shared])
    console.print(f"Rank correlation: {found.value:.2f} (p={found.p_value:.4f}).")


if __name__ == "__main__":
    main()

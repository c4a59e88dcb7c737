r"""What dropout costs a training, and what it is worth: accuracy and time of several settings.

A setting is two probabilities, ``HIDDEN/ATTENTION``; ``HIDDEN/ATTENTION/torch`` has ``nn.Dropout``
in the place of ours. Trainings of all settings and seeds, with the same batches and starting
weights for each seed:

    python benchmarks/dropout.py accuracy --settings 0.1/0.1 0.1/0 --seeds 0 1 2
    python benchmarks/dropout.py accuracy --dataset stanfordnlp/imdb --max-length 128 --epochs 2 \
        --tokenizer google-bert/bert-base-uncased --checkpoint prajjwal1/bert-tiny \
        --learning-rate 1.5e-4 --csv imdb.csv --test

Each training is a row of ``--csv``; the same command continues and repeats no finished row. What it
prints is the accuracy on validation rows carved from train, by which a setting is to be chosen.
``--test`` then reads the test split, once per row, from the weights kept beside the CSV file.

Training steps, the settings in turn:

    python benchmarks/dropout.py time --batch 8 --tokens 512 --settings 0.1/0.1/torch 0.1/0.1 0.1/0
"""

import argparse
import csv
import hashlib
import math
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import torch
from torch import nn

from lightning_adls import Quantize, TextClassifier, TextData, bert
from lightning_adls.budget import Budget
from lightning_adls.labs.notices import quiet
from lightning_adls.labs.task import Task
from lightning_adls.layers.dropout import BitDropout

# What a row is told by: another value of any of these is another row.
TOLD_BY = (
    *("setting", "seed", "dataset", "checkpoint", "max_length", "truncation", "limit_train"),
    *("limit_test", "epochs", "batch_size", "learning_rate", "precision"),
    *("hidden", "layers", "heads"),
)
Row = dict[str, str]


def probabilities(setting: str) -> dict[str, Any]:
    """The arguments of ``bert`` that a setting stands for."""
    hidden, attention, *_ = setting.split("/")
    return {"dropout": float(hidden), "attention_dropout": float(attention)}


def dimensions(arguments: argparse.Namespace, tokens: int) -> dict[str, int]:
    """The arguments of ``bert`` that make a new one."""
    return {
        "hidden_size": arguments.hidden,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "intermediate_size": 4 * arguments.hidden,
        "max_position_embeddings": tokens,
    }


def use_dropout_of(setting: str, model: nn.Module) -> None:
    """Put torch's dropout in the place of ours if the setting says so."""
    if not setting.endswith("/torch"):
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BitDropout):
                setattr(parent, name, nn.Dropout(child.p))


def rows_of(path: Path) -> list[Row]:
    """The rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Row) -> None:
    """Write one more row."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def find(rows: Sequence[Row], key: Row) -> Row | None:
    """The row that is told by ``key``."""
    return next((row for row in rows if all(row[name] == key[name] for name in TOLD_BY)), None)


def task_of(key: Row, arguments: argparse.Namespace) -> Task:
    """Data, network and seed of one row."""
    data = partial(
        TextData,
        dataset=arguments.dataset,
        tokenizer=arguments.tokenizer,
        max_length=arguments.max_length,
        truncation=arguments.truncation,
        batch_size=arguments.batch_size,
        limit_train=arguments.limit_train,
        limit_test=arguments.limit_test,
    )
    start: dict[str, Any] = {"checkpoint": arguments.checkpoint}
    if arguments.checkpoint is None:
        start = dimensions(arguments, arguments.max_length)
    model = partial(bert, **start, **probabilities(key["setting"]))
    classifier = partial(TextClassifier, learning_rate=arguments.learning_rate)
    task = Task(data, model, classifier, seed=int(key["seed"]), loggers=())
    use_dropout_of(key["setting"], task.network)
    return task


def weights_of(key: Row, path: Path) -> Path:
    """Where the weights of a row are kept."""
    told = hashlib.sha256(repr([key[name] for name in TOLD_BY]).encode()).hexdigest()[:8]
    return path.with_suffix("") / f"{key['setting'].replace('/', '-')}-{key['seed']}-{told}.pt"


def train(key: Row, arguments: argparse.Namespace, budget: Budget) -> Row:
    """One training."""
    task = task_of(key, arguments)
    module = task.build()
    weights = weights_of(key, arguments.csv)
    weights.parent.mkdir(parents=True, exist_ok=True)
    result = task.train(module, budget, weights.parent, weights.stem)
    torch.save({"state_dict": module.state_dict()}, weights)
    row = {**key, "accuracy": str(result["accuracy"]), "seconds": str(result["seconds"])}
    append(arguments.csv, row)
    return row


def test(key: Row, arguments: argparse.Namespace, budget: Budget, path: Path) -> Row:
    """Read the test split with the weights of one row."""
    task = task_of(key, arguments)
    task.texts.setup("test")
    module = task.build()
    module.load_weights(weights_of(key, arguments.csv))
    row = {**key, "accuracy": str(task.test(module, budget)["accuracy"])}
    append(path, row)
    return row


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and its standard error."""
    if len(values) < 2:
        return f"{statistics.fmean(values):8.4f} (one seed)"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):8.4f} +- {error:.4f}"


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    """Print each setting, and its differences to the first one seed by seed."""
    baseline = next(iter(table))
    print(f"{title}: mean and standard error over seeds; difference to {baseline} of the same seed")
    for setting, values in table.items():
        differences = [values[seed] - table[baseline][seed] for seed in values]
        each = ", ".join(f"{difference:+.4f}" for difference in differences)
        print(
            f"  {setting:14} {mean_and_error(list(values.values()))}   "
            f"{mean_and_error(differences)}  ({each})"
        )


def accuracy(arguments: argparse.Namespace) -> None:
    """Train what is not in the CSV file yet, and print the table."""
    budget = Budget(epochs=arguments.epochs, reports=1, precision=arguments.precision)
    budget.check()
    told = {name: str(getattr(arguments, name)) for name in TOLD_BY[2:]}
    tests = arguments.csv.with_name(f"{arguments.csv.stem}-test.csv")
    scores: dict[str, dict[str, float]] = {setting: {} for setting in arguments.settings}
    tested: dict[str, dict[str, float]] = {setting: {} for setting in arguments.settings}
    # Seed by seed, so that what is there after an interruption can be compared.
    for seed in arguments.seeds:
        for setting in arguments.settings:
            key = {"setting": setting, "seed": str(seed), **told}
            row = find(rows_of(arguments.csv), key) or train(key, arguments, budget)
            scores[setting][str(seed)] = float(row["accuracy"])
            print(f"{setting} seed {seed}: {float(row['accuracy']):.4f} in {row['seconds']} s")
    show("validation accuracy", scores)
    if not arguments.test:
        return
    for seed in arguments.seeds:
        for setting in arguments.settings:
            key = {"setting": setting, "seed": str(seed), **told}
            row = find(rows_of(tests), key) or test(key, arguments, budget, tests)
            tested[setting][str(seed)] = float(row["accuracy"])
    show("test accuracy", tested)


def stepper(setting: str, arguments: argparse.Namespace) -> Any:
    """A function that makes one training step."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dimensions(arguments, arguments.tokens)
    model = bert(vocab_size=1000, **sizes, **probabilities(setting))
    use_dropout_of(setting, model)
    if arguments.recipe is not None:
        Quantize({"*": arguments.recipe})(model)
    if arguments.compile:
        model.compile(isolate_recompiles=True)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(1000, (arguments.batch, arguments.tokens))
    mask = torch.ones_like(ids)
    labels = torch.zeros(arguments.batch, dtype=torch.int64)

    def step() -> None:
        logits = model(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def times(arguments: argparse.Namespace) -> None:
    """Time the settings in turns, and print them with their ratio to the first."""
    torch.set_num_threads(arguments.threads)
    steps = {setting: stepper(setting, arguments) for setting in arguments.settings}
    measured: dict[str, list[float]] = {setting: [] for setting in steps}
    for number in range(arguments.rounds + 2):
        for setting, step in steps.items():
            begin = time.perf_counter()
            step()
            if number >= 2:
                measured[setting].append(1e3 * (time.perf_counter() - begin))
    baseline = next(iter(measured))
    print(
        f"{arguments.batch}x{arguments.tokens}x{arguments.hidden}, {arguments.layers} layers, "
        f"{arguments.threads} threads, recipe {arguments.recipe}, compile {arguments.compile}, "
        f"load {os.getloadavg()[0]:.1f}; median of {arguments.rounds} steps"
    )
    for setting, values in measured.items():
        ratios = [value / base for value, base in zip(values, measured[baseline], strict=True)]
        print(
            f"  {setting:14} {statistics.median(values):9.1f} ms   "
            f"{statistics.median(ratios):.3f} of {baseline}"
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trained = commands.add_parser("accuracy", help="train and compare")
    timed = commands.add_parser("time", help="time training steps")
    for command in (trained, timed):
        command.add_argument(
            "--settings",
            nargs="+",
            default=["0.1/0.1", "0.1/0"],
            help="HIDDEN/ATTENTION or HIDDEN/ATTENTION/torch",
        )
        command.add_argument("--hidden", type=int, default=128, help="width of a new network")
        command.add_argument("--layers", type=int, default=2)
        command.add_argument("--heads", type=int, default=2)
    trained.add_argument("--dataset", default="reviews", help="as of TextData")
    trained.add_argument("--tokenizer", help="a name on the hub or a folder")
    trained.add_argument("--checkpoint", help="a BERT to start from; without it a new one")
    trained.add_argument("--max-length", type=int, default=64)
    trained.add_argument("--truncation", default="head_tail")
    trained.add_argument("--limit-train", type=int, help="most rows to train on")
    trained.add_argument("--limit-test", type=int, help="most rows to test on")
    trained.add_argument("--epochs", type=float, default=2)
    trained.add_argument("--batch-size", type=int, default=32)
    trained.add_argument("--learning-rate", type=float, default=1e-3)
    trained.add_argument("--precision", default="32-true")
    trained.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    trained.add_argument("--csv", type=Path, default=Path("dropout.csv"))
    trained.add_argument("--test", action="store_true", help="read the test split in the end")
    timed.add_argument("--batch", type=int, default=32)
    timed.add_argument("--tokens", type=int, default=128)
    timed.add_argument("--recipe", help="a format for all layers, such as Integer(width=8)")
    timed.add_argument("--compile", action="store_true")
    timed.add_argument("--threads", type=int, default=1)
    timed.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    quiet()
    {"accuracy": accuracy, "time": times}[arguments.command](arguments)


if __name__ == "__main__":
    main()

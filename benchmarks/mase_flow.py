"""Lab 3 through MASE's flow and through ours, in turn: seconds and accuracy of the same trials.

MASE's flow is that of its tutorial 6: Hugging Face's Trainer with the defaults that MASE's
``get_trainer`` leaves it (batches at random, padded to the longest row of each; AdamW; evaluation
of 8 rows at a time afterwards), around MASE's own layers where its package ``chop`` can be
imported, and else around those of our backend ``mase``, which compute the same; the table says
which. A second column gives the same Trainer batches of rows of like length, as ours has them.

Both sides train the same network from the same weights on the same tokens and as many rows at a
time, at the same learning rate that falls linearly, without decay of weights. The seconds are
those of a whole trial: copying the network, quantising it, the Trainer, an epoch, the validation.

Run, on the built-in reviews and on a data set of your own, in pieces of two minutes:
    python benchmarks/mase_flow.py --reviews 500 --validation 250
    python benchmarks/mase_flow.py --data IMDB --tokenizer BERT --checkpoint BERT --tokens 512 \
        --folder flow --minutes 2

A whole study per format: 24 trials without pruning for MASE, with pruning and without training
twins for ours:
    python benchmarks/mase_flow.py ... --study --formats Integer --trials 24
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch
import transformers
from command_line import positive
from mase_trials import EIGHT_BITS, FLOWS, FORMATS, OURS, PLAIN, RANGES, Comparison
from optuna.samplers import RandomSampler
from rich.console import Console
from rich.table import Table
from transformers import TrainingArguments

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.labs.cli import quiet
from lightning_adls.labs.ending import refusing
from lightning_adls.models.loading import quiet as quiet_transformers
from lightning_adls.search import FormatSpace, Objective, Search, make_sampler, open_study
from lightning_adls.search.storage import open_storage
from lightning_adls.threads import wait_policy
from lightning_adls.transforms import Quantize

Row = dict[str, Any]


class Rows:
    """The rows so far, in a file that the same command goes on with."""

    KEYS = ("task", "format", "layers", "flow", "turn", "seconds", "accuracy", "state", "load")

    def __init__(self, path: Path, settings: str, minutes: float) -> None:
        self.path, self.settings = path, settings
        self.until = time.monotonic() + 60 * minutes
        self.found: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.found = list(csv.DictReader(file))
        for row in self.found:
            if row["task"] != settings:
                raise InputValueError(
                    f"mase_flow: folder={str(path.parent)!r} has rows of {row['task']}, and this "
                    f"is {settings}; name another folder."
                )

    def has(self, name: str, flow: str, turn: int) -> bool:
        """Whether this was measured already."""
        return any(
            (row["format"], row["flow"], row["turn"]) == (name, flow, str(turn))
            for row in self.found
        )

    def add(self, row: Row) -> None:
        """Append a row to the file."""
        row = {key: str(value) for key, value in {"task": self.settings, **row}.items()}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.KEYS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.found.append(row)

    @property
    def over(self) -> bool:
        """Whether the time of this call is used up."""
        return time.monotonic() > self.until

    def of(self, name: str, flow: str) -> list[Row]:
        """The rows of a format and a flow."""
        return [row for row in self.found if (row["format"], row["flow"]) == (name, flow)]


def load() -> str:
    """Of the machine in the last minute, where that is known."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def timed(call: Callable[[], float]) -> Row:
    """What a call gives, its seconds, and the load of the machine before it."""
    before, begin = load(), time.perf_counter()
    accuracy = call()
    seconds = time.perf_counter() - begin
    return {"seconds": f"{seconds:.2f}", "accuracy": f"{accuracy:.4f}", "load": before}


def run_epochs(given: argparse.Namespace, comparison: Comparison, rows: Rows) -> None:
    """A trial of each format through each flow, in an order that turns from round to round."""
    for turn in range(given.rounds):
        flows = FLOWS[turn % len(FLOWS) :] + FLOWS[: turn % len(FLOWS)]
        for name in given.formats:
            recipe = first_recipe(comparison.space(name, EIGHT_BITS))
            for flow in flows:
                if rows.has(name, flow, turn):
                    continue
                if rows.over:
                    return
                row = timed(partial(comparison.trial, name, flow, recipe))
                layers = "ours" if flow in OURS else comparison.layers(name)
                rows.add({"format": name, "layers": layers, "flow": flow, "turn": turn, **row})


def first_recipe(space: FormatSpace) -> Quantize:
    """The recipe of a space in which nothing is left to choose."""
    return space.suggest(optuna.create_study(sampler=RandomSampler(seed=0)).ask())


def run_studies(given: argparse.Namespace, comparison: Comparison, rows: Rows) -> None:
    """Each format's trials through MASE's flow, which trains all, and through ours, in turn."""
    flow = next(flow for flow, precision in OURS.items() if precision == given.precision)
    with open_storage(rows.path.parent / "study.journal") as storage:
        for name in given.formats:
            space = comparison.space(name, RANGES)
            objective = Objective(
                space,
                lambda recipe: comparison.task.build(recipe),
                comparison.texts,
                comparison.budget(given.precision, reports=3),
                rows.path.parent / name,
                given.seed,
                loggers=(),
            )
            pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=25)
            study = open_study(storage, name, {"task": rows.settings}, pruner)
            for turn in range(given.trials):
                if not rows.has(name, PLAIN, turn):
                    if rows.over:
                        return
                    recipe = recipe_of(space, given.seed, turn)
                    row = timed(partial(comparison.trial, name, PLAIN, recipe))
                    layers = comparison.layers(name)
                    rows.add({"format": name, "layers": layers, "flow": PLAIN, "turn": turn, **row})
                search = Search(study, objective, RandomSampler, turn + 1, given.seed)
                if search.total > turn and not rows.has(name, flow, turn):
                    if rows.over:
                        return
                    rows.add({"format": name, "layers": "ours", "flow": flow, **ours(search, turn)})


def recipe_of(space: FormatSpace, seed: int, turn: int) -> Quantize:
    """What our search proposes as this trial, which with a random sampler no other decides."""
    study = optuna.create_study(sampler=make_sampler(RandomSampler, space, seed, turn))
    return space.suggest(study.ask())


def ours(search: Search[Quantize], turn: int) -> Row:
    """A trial of our search, by its own clock: also if this script was killed after it."""
    before = load()
    search.run()
    trial = search.counted[turn]
    state = "repeated" if "same_as" in trial.user_attrs else trial.state.name.lower()
    value = trial.value if state == "complete" else None
    return {
        "turn": turn,
        "seconds": trial.user_attrs["seconds"],
        "accuracy": "" if value is None else f"{value:.4f}",
        "state": state,
        "load": before,
    }


def epoch_table(given: argparse.Namespace, rows: Rows) -> Table:
    """Seconds of a trial, ours as a share of MASE's in the same turn, and accuracies."""
    table = Table("format", "layers", *FLOWS, *(f"{flow} / MASE" for flow in OURS), "accuracies")
    for name in given.formats:
        found = {flow: rows.of(name, flow) for flow in FLOWS}
        if not all(found.values()):
            continue
        seconds = {flow: [float(row["seconds"]) for row in each] for flow, each in found.items()}
        ratios = [
            median(a / b for a, b in zip(seconds[flow], seconds[PLAIN], strict=False))
            for flow in OURS
        ]
        accuracies = " ".join(f"{float(each[0]['accuracy']):.3f}" for each in found.values())
        table.add_row(
            name,
            found[PLAIN][0]["layers"],
            *(f"{median(each):.1f}" for each in seconds.values()),
            *(f"{ratio:.2f}" for ratio in ratios),
            accuracies,
        )
    return table


def study_table(given: argparse.Namespace, rows: Rows) -> Table:
    """Seconds and best accuracy of whole studies."""
    flow = next(flow for flow, precision in OURS.items() if precision == given.precision)
    columns = ("trials", "MASE s", "best", f"{flow} s", "best", "pruned", "known", "ours / MASE")
    table = Table("study", "layers", *columns)
    totals = np.zeros(2)
    for name in given.formats:
        theirs, found = rows.of(name, PLAIN), rows.of(name, flow)
        if not theirs or not found:
            continue
        seconds = np.array([sum(float(row["seconds"]) for row in each) for each in (theirs, found)])
        best = [
            max((float(row["accuracy"]) for row in each if row["accuracy"]), default=float("nan"))
            for each in (theirs, found)
        ]
        states = [row["state"] for row in found]
        totals += seconds
        table.add_row(
            name,
            theirs[0]["layers"],
            str(len(theirs)),
            *(f"{seconds[0]:.0f}", f"{best[0]:.3f}", f"{seconds[1]:.0f}", f"{best[1]:.3f}"),
            str(states.count("pruned")),
            str(len(theirs) - states.count("complete") - states.count("pruned")),
            f"{seconds[1] / seconds[0]:.2f}",
        )
    if totals[0]:
        sums = (f"{totals[0]:.0f}", "", f"{totals[1]:.0f}", "", "", "")
        table.add_row("all", "", "", *sums, f"{totals[1] / totals[0]:.2f}")
    return table


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="reviews", help="built-in reviews, a folder or a name")
    parser.add_argument("--tokenizer", help="of other data: a folder or a name on the hub")
    parser.add_argument("--checkpoint", help="of a BERT (default: a new one, 2 layers of 128)")
    parser.add_argument("--weights", help="start from a checkpoint of scripts/train.py")
    parser.add_argument("--reviews", type=positive, default=1000, help="to train on")
    parser.add_argument("--validation", type=positive, default=500, help="to validate on")
    parser.add_argument("--tokens", type=positive, default=128, help="most of a review")
    parser.add_argument("--batch", type=positive, default=8, help="rows (MASE's default: 8)")
    parser.add_argument("--learning-rate", type=float, help="5e-5, without a checkpoint 5e-4")
    parser.add_argument("--start-epochs", type=int, help="before all: 0, without a checkpoint 2")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rounds", type=positive, default=1, help="of the table of epochs")
    parser.add_argument("--study", action="store_true", help="whole studies instead of epochs")
    parser.add_argument("--trials", type=positive, default=24, help="of each study")
    parser.add_argument(
        "--precision", choices=list(OURS.values()), default="32-true", help="of our studies"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="keeps rows; the same command goes on")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin nothing after so long"
    )
    given = parser.parse_args()
    started = given.checkpoint or given.weights
    if given.learning_rate is None:
        given.learning_rate = 5e-5 if started else 5e-4
    if given.start_epochs is None:
        given.start_epochs = 0 if started else 2
    return given


def describe(given: argparse.Namespace, comparison: Comparison) -> str:
    """What the figures were taken on, and what each side does."""
    config: Any = comparison.task.network.config
    layers = "MASE's own, of chop; where those have no backward, of our backend mase"
    if comparison.no_chop:
        layers = f"of our backend mase, not MASE's own ({comparison.no_chop})"
    return (
        f"{given.reviews} reviews of up to {given.tokens} tokens, {given.validation} to validate "
        f"on; an epoch in batches of {given.batch} at a learning rate of "
        f"{given.learning_rate:g}, seed {given.seed}.\n"
        f"{given.threads} of {os.cpu_count()} cores, waiting: {wait_policy()}; load {load()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}.\n"
        f"MASE's layers: {layers}.\n"
        "MASE: Transformers' Trainer with its defaults, float32, random batches padded to their "
        "longest row, dropout 0.1, validation by "
        f"{TrainingArguments.per_device_eval_batch_size} rows. Ours: Lightning's Trainer, batches "
        f"of like length, dropout {config.hidden_dropout_prob} and of attention "
        f"{config.attention_probs_dropout_prob}, validation by {comparison.texts.eval_batch_size} "
        "rows."
    )


@contextmanager
def folder_of(given: argparse.Namespace) -> Iterator[Path]:
    """Where rows are kept: a folder of the user's, or one that is removed in the end."""
    if given.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        given.folder.mkdir(parents=True, exist_ok=True)
        yield given.folder


def settings_of(given: argparse.Namespace, comparison: Comparison) -> str:
    """What decides a row, as text."""
    passing = {"folder", "minutes", "formats", "rounds", "trials"}
    decisive = {k: v for k, v in sorted(vars(given).items()) if k not in passing}
    decisive["layers"] = "mase" if comparison.no_chop else "chop"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return " ".join(f"{k}={v}" for k, v in {**decisive, **versions}.items())


def main() -> None:
    """Measure what is missing and print the table of all that is there."""
    given = parse_arguments()
    quiet()
    with refusing(), quiet_transformers(), folder_of(given) as folder:
        if find_spec("accelerate") is None:
            raise MissingPackageError(
                "mase_flow: Hugging Face's Trainer needs accelerate; "
                "pip install 'accelerate>=1.10'."
            )
        torch.set_num_threads(given.threads)
        kind = "study" if given.study else "epochs"
        comparison = Comparison(given)
        rows = Rows(folder / f"{kind}.csv", settings_of(given, comparison), given.minutes)
        comparison.warm_up()
        print(describe(given, comparison))
        (run_studies if given.study else run_epochs)(given, comparison, rows)
        table = (study_table if given.study else epoch_table)(given, rows)
    Console(width=None if Console().is_terminal else 180).print(table)
    if rows.over:
        print(f"{len(rows.found)} rows so far; the same command goes on.")


if __name__ == "__main__":
    main()

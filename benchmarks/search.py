"""Seconds and accuracy of Lab 3's strategies side by side, under a budget of bits.

For each seed one run of the lab's study fine-tunes the float32 start and then runs each strategy
in turn, in processes of their own: per_layer (the lab's sampler), plan and one_shot. The seconds
are those that a strategy computed: scores or the shared training, then its trials one after the
other; start-up, the float32 start and the test are not counted. The best model is that of the
highest validation accuracy, its test accuracy is read once; standard errors are over seeds.

Run:
    python benchmarks/search.py
    python benchmarks/search.py --bits 2.5 --trials 6 --seeds 0        # a look
    python benchmarks/search.py --bits 3.25 -- --data DATA.yaml --model.checkpoint FOLDER
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table

from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.strategies import SEARCHES, searches_of

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Found:
    """What a strategy came to with one seed."""

    seconds: float
    to_best: float
    trained: int
    evaluated: int
    val: float
    test: float
    bits: float


def lab(folder: Path, options: Sequence[str]) -> None:
    """Run Lab 3 in a folder."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "scripts" / "lab3_mixed_precision.py"), *options]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-3000:]}")


def read(folder: Path, study: str, strategy: str) -> Found:
    """What a strategy found, from the rows of its run."""
    run = StoredRun.read(folder)
    names = searches_of(study, strategy)
    rows = [row for name in names for row in run.rows if row["study"] == name]
    seconds, reached = rows[0]["seconds_before"], list[tuple[float, float]]()
    for row in rows:
        seconds += row["seconds"]
        if row["state"] == "complete":
            reached.append((row["val_accuracy"], seconds))
    summaries = [run.results[name] for name in names if run.results.get(name, {}).get("best_trial")]
    best = max(summaries, key=lambda each: each["val_accuracy"])
    evaluated = sum(row["study"] == f"{study}_one_shot" for row in rows)
    return Found(
        seconds,
        max(reached, key=lambda each: each[0])[1],  # the first of equals
        len(rows) - evaluated,
        evaluated,
        best["val_accuracy"],
        best["test_accuracy"],
        best["bits_per_weight"],
    )


def over_seeds(numbers: Sequence[float], digits: int) -> str:
    """The mean and its standard error."""
    error = stdev(numbers) / sqrt(len(numbers)) if len(numbers) > 1 else float("nan")
    return f"{fmean(numbers):.{digits}f} +- {error:.{digits}f}"


def main() -> None:
    """Print a row for each strategy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=float, default=3.25, help="budget, per weight")
    parser.add_argument("--study", default="MXInt")
    parser.add_argument("--trials", type=positive, default=12, help="trained by a strategy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("lab", nargs="*", help="more options of the lab, after --")
    arguments = parser.parse_args()
    found: dict[str, list[Found]] = {strategy: [] for strategy in arguments.strategies}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in arguments.seeds:
            run = f"seed{seed}"
            for strategy in arguments.strategies:
                lab(
                    folder,
                    [
                        *("--run", run, "--seed", str(seed), "--strategy", strategy),
                        *("--only", f"[{arguments.study}]", "--trials", str(arguments.trials)),
                        *("--budget_bits", str(arguments.bits)),
                        *(str(Path(o).resolve()) if Path(o).exists() else o for o in arguments.lab),
                    ],
                )
                one = read(folder / "lightning_logs" / "lab3" / run, arguments.study, strategy)
                found[strategy].append(one)
                print(f"{run}, {strategy}: {one}", file=sys.stderr)
    table = Table(
        title=f"{arguments.study}, at most {arguments.bits:g} bits per weight, "
        f"{len(arguments.seeds)} seeds"
    )
    headings = ("strategy", "s", "s to the best", "trained", "evaluated", "val", "test", "bits/w")
    for heading in headings:
        table.add_column(heading, justify="right")
    for strategy, each in found.items():
        table.add_row(
            strategy,
            over_seeds([one.seconds for one in each], 1),
            over_seeds([one.to_best for one in each], 1),
            f"{fmean(one.trained for one in each):.1f}",
            f"{fmean(one.evaluated for one in each):.1f}",
            over_seeds([one.val for one in each], 4),
            over_seeds([one.test for one in each], 4),
            over_seeds([one.bits for one in each], 2),
        )
    console = Console(width=130)
    console.print(table)
    console.print(f"{machine(torch.device('cpu'))}; load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()

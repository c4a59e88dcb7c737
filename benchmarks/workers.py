"""Trials per hour of Lab 3 with one worker and with several, on this machine.

Each round runs the lab's study Integer once in each configuration, in turn, as a process of its
own: on the built-in reviews, with the lab's network and budget. All start from one fine-tune, made
before. Trials are drawn at random and none is pruned, so all configurations judge the same; where
they have the same number of threads, their values must be equal.

The clock of the trials runs from the moment at which the first worker begins one until the last
one is stored. What comes before (imports, data, starting the workers) and after (the test of the
best model, figures) is counted by itself.

Run:
    python benchmarks/workers.py
    python benchmarks/workers.py --trials 4 --rounds 1        # a look
    python benchmarks/workers.py --configurations serial:1x2 processes:2x1 processes:4x1
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import optuna
import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table

from lightning_adls import search
from lightning_adls.threads import cores

ROOT = Path(__file__).resolve().parent.parent
STUDY = "Integer"
DRAWN = ["--sampler", "optuna.samplers.RandomSampler", "--pruner", "optuna.pruners.NopPruner"]


@dataclass(frozen=True)
class Configuration:
    """Who judges the trials, such as ``processes:2x1``: an engine, its workers, threads of each."""

    engine: str
    workers: int
    threads: int

    @classmethod
    def parse(cls, text: str) -> "Configuration":
        """Read it; argparse shows the message of this kind of error only."""
        found = re.fullmatch(r"(serial|processes|ray):([1-9]\d*)x([1-9]\d*)", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} has not the form of processes:2x1")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.engine}, {self.workers} x {self.threads}"


@dataclass(frozen=True)
class Round:
    """What a configuration took once, in seconds, and the values that it found."""

    before: float
    trials: float
    after: float
    values: tuple[float | None, ...]

    @property
    def per_hour(self) -> float:
        """Trials."""
        return 3600 * len(self.values) / self.trials


def lab(folder: Path, run: str, threads: int, *options: str) -> tuple[float, float]:
    """Run Lab 3 in a folder; when it began and ended."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    script = str(ROOT / "scripts" / "lab3_mixed_precision.py")
    command = [sys.executable, script, "--only", f"[{STUDY}]", "--run", run, *DRAWN, *options]
    began = time.time()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-3000:]}")
    return began, time.time()


def measure(
    folder: Path, run: str, configuration: Configuration, trials: int, weights: Path
) -> Round:
    """Run the lab once in a configuration."""
    options = ["--engine", configuration.engine, "--workers", str(configuration.workers)]
    if configuration.engine == "ray":
        options += ["--ray.num_cpus", str(configuration.threads)]
    options += ["--trials", str(trials), "--finetune", "null", "--weights", str(weights)]
    began, ended = lab(folder, run, configuration.threads, *options)
    with search.open_storage(folder_of(folder, run) / "search.journal") as storage:
        study = optuna.load_study(study_name=STUDY, storage=storage)
        counted = search.counted_trials(study)
    times = [t.datetime_complete.timestamp() for t in counted if t.datetime_complete is not None]
    # A trial notes how long its worker took; it is stored at once.
    first = min(at - t.user_attrs["seconds"] for at, t in zip(times, counted, strict=True))
    values = tuple(trial.value for trial in counted)
    return Round(first - began, max(times) - first, ended - max(times), values)


def folder_of(folder: Path, run: str) -> Path:
    """Where the lab leaves a run."""
    return folder / "lightning_logs" / "lab3" / run


def check(rounds: dict[Configuration, list[Round]]) -> None:
    """Refuse values that differ though the number of threads is the same."""
    found: dict[int, tuple[float | None, ...]] = {}
    for configuration, each in rounds.items():
        for one in each:
            if one.values != found.setdefault(configuration.threads, one.values):
                sys.exit(
                    f"{configuration} found other values than another one of "
                    f"{configuration.threads} threads: {one.values}, "
                    f"{found[configuration.threads]}"
                )


def own() -> list[Configuration]:
    """All cores for one worker, and one core for each of several."""
    several = max(2, cores())
    found = [Configuration("serial", 1, cores()), Configuration("processes", several, 1)]
    if find_spec("ray") and find_spec("lightning_adls.engines.cluster"):
        found.append(Configuration("ray", several, 1))
    return found


def spread(numbers: Sequence[float], digits: int = 0) -> str:
    """The median, the smallest and the largest."""
    low, high = min(numbers), max(numbers)
    return f"{median(numbers):.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"


def main() -> None:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=positive, default=24, help="of each run")
    parser.add_argument("--rounds", type=positive, default=3, help="of each configuration")
    parser.add_argument(
        "--configurations",
        nargs="+",
        type=Configuration.parse,
        help="ENGINE:WORKERSxTHREADS; by default serial with all cores, and a process for each "
        "core, and the same with ray where it is installed",
    )
    arguments = parser.parse_args()
    configurations: list[Configuration] = arguments.configurations or own()
    rounds: dict[Configuration, list[Round]] = {each: [] for each in configurations}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lab(folder, "start", cores(), "--trials", "1")
        weights = folder_of(folder, "start") / "checkpoints" / "start.ckpt"
        for number in range(arguments.rounds):
            for configuration in configurations:
                run = f"{number}-{configuration.engine}-{configuration.workers}"
                run += f"-{configuration.threads}"
                one = measure(folder, run, configuration, arguments.trials, weights)
                rounds[configuration].append(one)
                loads.append(os.getloadavg()[0])
                print(f"{configuration}: {one.per_hour:.0f} trials per hour", file=sys.stderr)
    check(rounds)
    table = Table(
        title=f"Lab 3, {arguments.trials} trials of {STUDY}, {arguments.rounds} rounds in turn"
    )
    for heading in ("workers x threads", "trials per hour", "of the first", "s before", "s after"):
        table.add_column(heading, justify="right")
    base = [one.per_hour for one in rounds[configurations[0]]]
    for configuration, each in rounds.items():
        ratios = [one.per_hour / first for one, first in zip(each, base, strict=True)]
        table.add_row(
            str(configuration),
            spread([one.per_hour for one in each]),
            spread(ratios, 2),
            spread([one.before for one in each], 1),
            spread([one.after for one in each], 1),
        )
    console = Console(width=120)
    console.print(table)
    load = f"load {min(loads):.1f} to {max(loads):.1f} (its own included)"
    console.print(f"{machine(torch.device('cpu'))}; {load}")


if __name__ == "__main__":
    main()

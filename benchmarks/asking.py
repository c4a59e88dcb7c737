"""What one driver of a search can take: asks and tells of trials that nobody trains.

Simulated workers end a trial at once, the one that began first, so that all the time is the
driver's: to propose 42 categorical choices, as many as Lab 3 has for its 14 layers, and to store
them, three reports, what a trial of the lab notes, and its end. Milliseconds of the clock and, in
brackets, of the processor; the rest waits for the disk or the database.

Run:
    python benchmarks/asking.py
    python benchmarks/asking.py --samplers tpe --workers 1 --trials 2000
    python benchmarks/asking.py --storage postgresql://user:password@host/name
    python benchmarks/asking.py --listeners          # with the lab's table and TensorBoard
"""

import argparse
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any
from uuid import uuid4

import optuna
from command_line import machine, positive
from rich.console import Console
from rich.table import Table

from lightning_adls import search
from lightning_adls.engines import Call, Driver, Engine
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.rows.trials import TrialTable
from lightning_adls.search.judged import JudgedTrial

LAYERS = 14  # linear layers of Lab 3's network; each has an input, a weight and a bias
SAMPLERS: dict[str, search.SamplerFactory] = {
    "random": optuna.samplers.RandomSampler,
    # As the lab has it.
    "tpe": partial(optuna.samplers.TPESampler, n_startup_trials=6, multivariate=False),
    "nsga2": optuna.samplers.NSGAIISampler,
}
WINDOWS = ((51, 100), (351, 400), (951, 1000), (1951, 2000), (4951, 5000), (9951, 10000))
Turn = dict[str, float]


class Judging(search.BaseObjective[Any]):
    """An objective that trains nothing, with all that a trial of Lab 3 says and notes.

    Args:
        space: To choose from.
        folder: Of the search.
    """

    def __init__(self, space: search.FormatSpace, folder: Path) -> None:
        self.space, self.folder = space, folder

    def __call__(self, trial: JudgedTrial) -> float:
        """A value of the choices that no sampler learns from, so that they do not repeat."""
        recipe = self.space.suggest(trial)
        trial.set_user_attr("choice", recipe.to_dict())
        trial.set_user_attr("host", "localhost")
        for name in ("bits_per_weight", "size_mb", "parameters", "sparsity"):
            trial.set_user_attr(name, 1.2345)
        value = Random(str(trial.params)).random()
        for step in (33, 67, 100):
            trial.report(value * step / 100, step)
            if step < 100 and trial.should_prune():
                raise optuna.TrialPruned
        return value


class Timed:
    """A driver's channel to a call, with the seconds that the driver takes to answer."""

    def __init__(self, driver: Driver, call: Call) -> None:
        self._driver, self._call = driver, call
        self.clock = self.processor = 0.0

    def ask(self, message: Any) -> Any:
        """Say something, and wait for the answer."""
        (answer, clock, processor) = timed(lambda: self._driver.heard(self._call, message))
        self.clock, self.processor = self.clock + clock, self.processor + processor
        return answer

    tell = ask


class Simulated(Engine):
    """Workers that are busy until all of them are, and then end one trial after another.

    Attributes:
        turns: Seconds of each trial that ended: to tell it, and to ask for the next.
    """

    turns: list[Turn]

    def run(self, driver: Driver) -> None:
        """Compute what the driver gives, the oldest first."""
        self.turns = []
        calls = deque[Call]()
        while len(calls) < self.workers and (call := driver.next()) is not None:
            driver.began(call, len(calls) + 1)
            calls.append(call)
        while calls:
            ended = calls.popleft()
            channel = Timed(driver, ended)
            result = ended.function(ended.shared.value, ended.argument, channel)
            _, tell, tell_processor = timed(partial(driver.ended, ended, result))
            asked, ask, ask_processor = timed(driver.next)
            if asked is not None:
                driver.began(asked, 1)
                calls.append(asked)
            self.turns.append(
                {
                    "tell": tell + channel.clock,
                    "tell processor": tell_processor + channel.processor,
                    "ask": ask,
                    "ask processor": ask_processor,
                    "place": ended.argument.index + 1,
                    "running": len(calls),
                }
            )

    def close(self) -> None:
        """Nothing is left."""


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, and its seconds by the clock and of the processor."""
    clock, processor = perf_counter(), process_time()
    result = call()
    return result, perf_counter() - clock, process_time() - processor


def measure(
    sampler: str, workers: int, trials: int, storage: str | None, folder: Path, listeners: bool
) -> tuple[list[Turn], int, float]:
    """The turns of a search, bytes of its journal (0 without), seconds to find it again."""
    space = search.FormatSpace.from_templates(
        [f"bert.encoder.layer.{number}" for number in range(LAYERS)],
        {"Integer": "Integer"},
        {"width": [8, 16, 32], "frac_width": [2, 4, 8]},
    )
    journal, name = folder / "search.journal", f"benchmark {uuid4().hex}"
    objective: Any = Judging(space, folder)
    heard: list[search.Listener] = []
    if listeners:
        heard = [search.TensorBoardRuns("benchmark")]

    def found(store: Any, engine: Engine) -> search.Search[Any]:
        study = search.open_study(store, name, space.to_dict(), optuna.pruners.NopPruner())
        return search.Search(study, objective, SAMPLERS[sampler], trials, 0, heard, engine)

    with Simulated(workers) as engine:
        with search.open_storage(storage or journal) as store:
            one = found(store, engine)
            if listeners:
                table = TrialTable(folder / "results.csv", {name: one}, Monitoring(500), "recipe")
                heard.insert(0, table)
            one.run()
        started = perf_counter()
        with search.open_storage(storage or journal) as store:
            found(store, engine).run()
            again = perf_counter() - started
            if storage:
                optuna.delete_study(study_name=name, storage=store)
    return engine.turns, journal.stat().st_size if journal.exists() else 0, again


def middle(turns: Sequence[Turn], part: str) -> str:
    """Median milliseconds by the clock, and of the processor in brackets."""
    clock, processor = (
        1e3 * median(t[each] for t in turns) for each in (part, f"{part} processor")
    )
    return f"{clock:.1f} ({processor:.1f})"


def main() -> None:
    """Print a row for each sampler, number of workers and window of trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--workers", nargs="+", type=positive, default=[1, 64, 512])
    parser.add_argument("--trials", type=positive, default=1000, help="such as 2000 or 10000")
    parser.add_argument("--storage", help="URL of a database, instead of a journal")
    parser.add_argument("--folder", type=Path, help="of the journal; its disk is what counts")
    parser.add_argument("--listeners", action="store_true", help="write what the lab writes")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(title="Milliseconds of the driver, medians: by the clock (of the processor)")
    for heading in ("sampler", "workers", "trials", "ask", "tell", "a second", "file, restart"):
        table.add_column(heading, justify="right")
    for sampler in arguments.samplers:
        for workers in arguments.workers:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                turns, size, again = measure(
                    sampler,
                    workers,
                    arguments.trials,
                    arguments.storage,
                    Path(folder),
                    arguments.listeners,
                )
            # At the end nothing is asked any more.
            busy = [turn for turn in turns if turn["running"] == workers]
            for first, last in WINDOWS:
                part = [turn for turn in busy if first <= turn["place"] <= last]
                if not part:
                    continue
                rate = 1 / median(t["ask"] + t["tell"] for t in part)
                table.add_row(
                    sampler,
                    str(workers),
                    f"{first}-{last}",
                    middle(part, "ask"),
                    middle(part, "tell"),
                    f"{rate:.1f}",
                )
            table.add_row(
                sampler, str(workers), "all", "", "", "", f"{size / 1e6:.1f} MB, {again:.2f} s"
            )
            table.add_section()
    console = Console(width=120)
    console.print(table)
    import torch

    console.print(f"{machine(torch.device('cpu'))}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

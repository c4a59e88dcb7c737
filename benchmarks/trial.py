"""Where the time of a trial goes that trains nothing: data, model, Trainer, loggers, storage.

Trials of Lab 3, on the built-in reviews and its small BERT, in a process of one thread; with
``--beside`` in turn with those of another checkout of this project.

Run:
    python benchmarks/trial.py
    python benchmarks/trial.py --beside ../before --rounds 3
    python benchmarks/trial.py --dataset aclImdb --tokenizer some/bert    # a tree of 50,000 files
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS = "training and validation"
PARTS = ("data", "model", "Trainer", "storage", STEPS)
REST = "rest of fit"


class Watch:
    """Adds up the seconds of calls by the part that they belong to; a part within none counts."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    def on(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, started = True, perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[part] += perf_counter() - started

        return timed


def trials(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of each trial by its parts, the first one left out."""
    import optuna
    import torch
    from lightning.pytorch.loops import evaluation_loop, training_epoch_loop
    from optuna.storages import JournalStorage

    from lightning_adls import Quantize, TextClassifier, TextData, bert, search
    from lightning_adls.budget import Budget
    from lightning_adls.labs.cli import quiet
    from lightning_adls.labs.task import Task
    from lightning_adls.search.samplers import SAMPLERS

    torch.set_num_threads(1)
    quiet()
    gc.collect()
    gc.freeze()  # as the scripts do
    watch = Watch()
    whole = watch.on(STEPS, training_epoch_loop._TrainingEpochLoop.advance)
    training_epoch_loop._TrainingEpochLoop.advance = whole  # type: ignore[method-assign]
    run: Any = watch.on(STEPS, evaluation_loop._EvaluationLoop.run)
    evaluation_loop._EvaluationLoop.run = run  # type: ignore[method-assign]
    for name in ("prepare_data", "setup"):
        setattr(TextData, name, watch.on("data", getattr(TextData, name)))
    made: Any = watch.on("Trainer", Budget.trainer)
    Budget.trainer = made  # type: ignore[method-assign]
    for name in ("set_trial_user_attr", "set_trial_param", "set_trial_intermediate_value"):
        setattr(JournalStorage, name, watch.on("storage", getattr(JournalStorage, name)))
    data = partial(
        TextData,
        dataset=arguments.dataset,
        tokenizer=arguments.tokenizer,
        max_length=64,
        limit_val=500,
        limit_train=arguments.rows,
    )
    dimensions: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    task = Task(data, partial(bert, **dimensions), TextClassifier)
    space = search.FormatSpace.from_templates(
        ["*"], {"Integer": "Integer"}, {"width": [8, 16, 32], "frac_width": [2, 4, 8]}
    )
    found: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        search.open_storage(Path(folder, "search.journal")) as storage,
    ):
        build = watch.on("model", lambda recipe: task.build(recipe))
        budget = Budget(epochs=1, reports=3, accelerator="cpu")
        objective = search.Objective[Quantize](
            space, build, task.texts, budget, Path(folder), loggers=task.loggers
        )
        study = search.open_study(storage, "trials", {}, optuna.pruners.NopPruner())

        class Times(search.Listener):
            """Takes down what the watch has after each trial."""

            started = perf_counter()

            def trial_ended(self, *_: Any) -> None:
                total = perf_counter() - self.started
                parts = {part: watch.seconds[part] for part in PARTS}
                found.append(
                    {
                        **parts,
                        REST: total - sum(parts.values()),
                        "value": study.trials[-1].value or 0.0,
                    }
                )
                watch.seconds.clear()
                self.started = perf_counter()

        sampler = SAMPLERS["random"]
        search.Search(study, objective, sampler, arguments.trials, listeners=[Times()]).run()
    return found[1:]


def in_process(root: Path) -> list[dict[str, float]]:
    """The trials of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", *sys.argv[1:]]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    times: list[dict[str, float]] = json.loads(result.stdout.splitlines()[-1])
    return times


def main() -> None:
    """Print the parts of a trial, of both checkouts if there are two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=6, help="of each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each checkout")
    parser.add_argument("--rows", type=int, default=256, help="to train on")
    parser.add_argument("--dataset", default="reviews")
    parser.add_argument("--tokenizer")
    parser.add_argument("--beside", type=Path, help="another checkout, such as an earlier state")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(trials(arguments)))
        return
    roots = {"here": ROOT} | ({"beside": arguments.beside} if arguments.beside else {})
    times: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
    for _ in range(arguments.rounds):
        for name, root in roots.items():
            times[name] += in_process(root)
    print(f"{'ms of a trial, medians':24}" + "".join(f"{name:>10}" for name in roots))
    for part in (*PARTS, REST):
        medians = [1e3 * statistics.median(t[part] for t in times[name]) for name in roots]
        print(f"{part:24}" + "".join(f"{ms:10.1f}" for ms in medians))
    around = [
        1e3
        * statistics.median(sum(t[p] for p in (*PARTS, REST) if p != STEPS) for t in times[name])
        for name in roots
    ]
    print(f"{'all but ' + STEPS:24}" + "".join(f"{ms:10.1f}" for ms in around))
    if len({json.dumps([t["value"] for t in each]) for each in times.values()}) > 1:
        sys.exit("The trials of the two checkouts found other values.")


if __name__ == "__main__":
    main()

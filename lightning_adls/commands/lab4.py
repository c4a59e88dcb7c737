"""Lab 4: what makes a BERT fast and small: compiling, fused attention, packed weights, exports.

Four parts. Three are measured on every device that is asked for: `compile` repeats the measurement
that misleads (few calls, compilation included) beside one that does not, and counts recompilations
over changing lengths; `attention` compares the textbook formula with torch's fused kernels;
`mxint8` packs weights into 8.25 bits per element, and counts the bytes of a whole BERT. `export`
trains a small BERT on the built-in reviews, quantises it, writes it for other engines, and asks all
of them for the same answers, on the CPU. Run:

    adls lab4
    adls lab4 --parts '[attention]' --attention.lengths '[512, 4096]'
    adls lab4 --devices '[cuda]' --run gpu
    adls lab4 --parts '[export]' --export.format 'MXInt(width=8)'

What cannot be measured gets a row that says why, and the exit status is 1 only if nothing could be.
Times are not continued: a run of the same name measures everything anew.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from time import monotonic
from typing import Literal

import torch
import yaml
from rich.console import Console
from torch import nn

from lightning_adls.bench import Results, Rounds, Variant
from lightning_adls.bench.experiments import (
    EXTRA_KEYS,
    Attention,
    Compiling,
    Exporting,
    Packing,
    Part,
)
from lightning_adls.bench.workloads.devices import usable
from lightning_adls.commands.table import defaults_of
from lightning_adls.errors import InputValueError
from lightning_adls.labs import cli
from lightning_adls.labs.about import about
from lightning_adls.labs.calling import call
from lightning_adls.labs.environment import environment
from lightning_adls.labs.run import Run
from lightning_adls.labs.tables import table
from lightning_adls.models import NetworkFactory
from lightning_adls.report import Row

PartName = Literal["compile", "attention", "mxint8", "export"]
LINE_SECONDS = 10.0  # from one line to the next, within a part
console = Console()


def run_lab(
    config_yaml: str,
    model: Callable[..., nn.Module],
    compiling: Compiling,
    attention: Attention,
    mxint8: Packing,
    export: Exporting,
    parts: list[PartName],
    devices: list[str],
    dtypes: list[str],
    rounds: Callable[..., Rounds],
    seed: int = 0,
    run: str = "default",
) -> None:
    """Measure compiling, fused attention, packed weights and exports.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        model: The BERT: a checkpoint or dimensions.
        compiling: What the part ``compile`` measures.
        attention: What the part ``attention`` measures.
        mxint8: What the part ``mxint8`` measures.
        export: What the part ``export`` trains and writes.
        parts: Which of the parts, some of ``compile``, ``attention``, ``mxint8`` and ``export``.
        devices: ``cpu``, ``cuda``, ``cuda:1``, ...; one that is missing gets rows that say so.
        dtypes: ``float32``, ``bfloat16``, ``float16``; few calls and lengths in the first alone.
        rounds: How often everything is called.
        seed: Of weights and inputs.
        run: Name of the folder in lightning_logs/lab4.
    """
    if not (parts and devices and dtypes):
        raise InputValueError("lab4: give at least one of parts, of devices and of dtypes.")
    dtypes, in_rounds = list(dict.fromkeys(dtypes)), rounds(seed=seed)
    eager = [Variant(dtype=dtype) for dtype in dtypes]
    torch.manual_seed(seed)
    network = model(num_classes=2).eval()
    if "compile" in parts:
        compiling.check(network)
    if "export" in parts:
        export.check()
    # Times are measured anew: all settings may differ from those of an earlier call.
    with Run("lab4", run, config_yaml, passing=yaml.safe_load(config_yaml)) as lab:
        lab.begin()
        turns = Turns(devices, set(parts))
        results = Results(lab.folder, EXTRA_KEYS, about(lab), turns.heard)
        if "compile" in parts:
            for device in turns.of("compile"):
                compiling.measure(results, network, dtypes, in_rounds, device)
            show(compiling, results)
        if "attention" in parts:
            for device in turns.of("attention"):
                attention.measure(results, eager, in_rounds, device)
            show(attention, results)
        if "mxint8" in parts:
            for device in turns.of("mxint8"):
                mxint8.measure(results, eager, in_rounds, device)
            mxint8.count_bytes(results, network)
            show(mxint8, results)
        if "export" in parts:
            for _ in turns.of("export"):
                export.measure(results, seed)
            show(export, results)

    print_environment(results)
    print(f"Tables, figures and TensorBoard curves: {results.folder}")
    # Bytes are counted without a device.
    if all(r["error"] is not None for r in results.records if r["experiment"] != "memory"):
        print("lab4: nothing could be measured.", file=sys.stderr)
        sys.exit(1)


class Turns:
    """Says what is measured, and now and then how far that is.

    Nothing is said of how long it will take: one part takes ten times as long as another.

    Args:
        devices: Where. Of those that are missing nothing is said, since nothing takes time there.
        parts: What is measured.
    """

    def __init__(self, devices: Sequence[str], parts: Collection[PartName]) -> None:
        self._devices, self._here = dict.fromkeys(devices), ""
        there = (is_there(device) for part in parts for device in self._of(part))
        self._total, self._done = sum(there), 0

    def _of(self, part: PartName) -> Collection[str]:
        return ["cpu"] if part == "export" else self._devices

    def of(self, part: PartName) -> Iterator[str]:
        """Each device once."""
        for device in self._of(part):
            self._here = f"{part} on {device}" if is_there(device) else ""
            if self._here:
                self._done += 1
                console.print(f"{self._here}, {self._done} of {self._total} ...", highlight=False)
                self._measured, self._said = 0, monotonic()
            yield device

    def heard(self, record: Row) -> None:
        """Something was measured."""
        if not self._here:
            return
        self._measured += 1
        if monotonic() - self._said >= LINE_SECONDS:
            last = f"{record['experiment']}, {record['target']}"
            console.print(f"{self._here}: {self._measured} measured, last {last}", highlight=False)
            self._said = monotonic()


def is_there(device: str) -> bool:
    """Whether something can be measured there."""
    try:
        usable(device)
    except InputValueError:
        return False
    return True


def show(part: Part, results: Results) -> None:
    """Print its tables, what could not be measured, and what it means; draw its figures."""
    for title, records, columns in part.tables(results):
        console.print(table(title, records, columns))
    for line in results.failures(part.name):
        print(line)
    if explanation := part.explain(results):
        console.print(explanation, highlight=False)
    part.draw(results)


def print_environment(results: Results) -> None:
    """Say what ran where, and how to fill what is missing."""
    console.print("\n[bold]Environment")
    for name, value in environment().items():
        console.print(f"  {name:<20} {value}", soft_wrap=True, highlight=False)
    if not torch.cuda.is_available():
        here = {"--devices": "[cuda]", "--run": f"{results.folder.name}-cuda"}
        print(
            "No GPU here: numbers of CUDA devices are missing. On a machine with one, get them by"
        )
        print(f"  {call().with_options(here)}")


def main(arguments: Sequence[str]) -> None:
    """Run the lab as a command line says."""
    cli.run(
        run_lab,
        defaults_of("lab4"),
        {"model": (NetworkFactory, {"num_classes"}), "rounds": (Rounds, set())},
        interrupted="what was measured is on disk; the same command measures anew",
        arguments=arguments,
    )

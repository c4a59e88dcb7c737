"""Time of a training step with each number format, as a multiple of the step in float32.

A step is forward, loss, backward and a fused AdamW, of a BERT whose linear layers round input,
weight and bias. All networks share their parameters, so that those of twelve layers fit in memory
together; the learning rate is 0, so that none changes what the others compute with. Every round
makes a step of each, in an order that is drawn anew, and each is divided by the step in float32 of
its own round, so that a disturbance by other processes meets all alike.

Run:
    python benchmarks/step.py --threads 2
    python benchmarks/step.py --network base --formats "MXInt(width=4)" Integer --rounds 5
    python benchmarks/step.py --compile layers
    python benchmarks/step.py --network base --formats MXInt --device cuda --compile layers
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from command_line import add_device, add_formats_and_threads, machine, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_adls.bench import Rounds, alternate
from lightning_adls.bench.workloads.devices import current
from lightning_adls.compiling import compile_layers
from lightning_adls.formats import NumberFormat
from lightning_adls.models import bert
from lightning_adls.optimizers import adamw
from lightning_adls.transforms import Quantize

NETWORKS = {
    "small": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
BATCHES = {"small": (32, 128), "base": (8, 128)}
"""Rows and tokens of a batch."""
FLOAT32 = "float32"


def sharing(network: nn.Module) -> nn.Module:
    """A copy on the same parameters."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def networks(name: str, formats: list[NumberFormat], device: torch.device) -> dict[str, nn.Module]:
    """The network in float32, and one that rounds for each format, all in train mode."""
    torch.manual_seed(0)
    size: dict[str, Any] = NETWORKS[name]
    plain = bert(
        vocab_size=1000,
        intermediate_size=4 * size["hidden_size"],
        max_position_embeddings=128,
        **size,
    ).to(device)
    found = {FLOAT32: plain}
    for fmt in formats:
        found[str(fmt)] = sharing(plain)
        Quantize({"*": str(fmt)})(found[str(fmt)])
    return found


def steps(found: dict[str, nn.Module], batch: tuple[int, int]) -> dict[str, Callable[[], None]]:
    """A training step of each network."""
    parameters = {id(p): p for network in found.values() for p in network.parameters()}
    optimizer = adamw(parameters.values(), lr=0.0)
    device = next(iter(parameters.values())).device
    ids = torch.randint(1000, batch, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.arange(batch[0], device=device) % 2

    def step_of(network: nn.Module) -> Callable[[], None]:
        def step() -> None:
            nn.functional.cross_entropy(network(**inputs).logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return {name: step_of(network) for name, network in found.items()}


def cell(values: Tensor) -> str:
    """Median, smallest and largest."""
    return f"{values.median():.2f} ({values.min():.2f} - {values.max():.2f})"


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """By way and name, the time of the step in float32 in ms, then the others as multiples of it.

    Eager and compiled steps take turns, too, so that the two in float32 can be compared.
    """
    found = {"eager": networks(arguments.network, arguments.formats, arguments.device)}
    if arguments.compile:
        found["compiled"] = {name: sharing(network) for name, network in found["eager"].items()}
        for network in found["compiled"].values():
            if arguments.compile == "whole":
                network.compile(isolate_recompiles=True, dynamic=False)
            else:
                compile_layers(network)
    flat = {f"{way} {name}": n for way, named in found.items() for name, n in named.items()}
    with current(arguments.device):
        calls = steps(flat, BATCHES[arguments.network])
        times_ms = alternate(calls, Rounds(timed=arguments.rounds), arguments.clock)
    columns = {}
    for way, named in found.items():
        plain_ms = times_ms[f"{way} {FLOAT32}"]
        ratios = {name: cell(times_ms[f"{way} {name}"] / plain_ms) for name in named}
        columns[way] = ratios | {FLOAT32: f"{cell(plain_ms)} ms"}
    return columns


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        default="small",
        help="small: 2 layers, 128 wide, 32 rows of 128 tokens; base: 12 layers, 768 wide, 8 rows",
    )
    add_formats_and_threads(parser)
    parser.add_argument("--rounds", type=positive, default=10, help="timed ones (default: 10)")
    parser.add_argument(
        "--processor-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        help="count seconds of computing, which other processes disturb less (default: wall time)",
    )
    add_device(parser)
    parser.add_argument(
        "--compile",
        choices=("whole", "layers"),
        nargs="?",
        const="whole",
        help="time compiled steps too, in multiples of the compiled one in float32: of the whole "
        "network (default), or of its layers by one graph for all that are alike",
    )
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each format."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows, tokens = BATCHES[arguments.network]
    print(machine(arguments.device))
    print(
        f"Median (smallest - largest) of {arguments.rounds} rounds; {arguments.network} network, "
        f"{rows} rows of {tokens} tokens; steps in those of float32, compiled ones in compiled, "
        f"by {'processor' if arguments.clock else 'wall'} time."
    )
    columns = measure(arguments)
    table = Table("training step", *columns)
    for name in columns["eager"]:
        table.add_row(name, *(cells[name] for cells in columns.values()))
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    main()

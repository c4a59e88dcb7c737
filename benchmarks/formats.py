"""Time to round a tensor to each number format, as a multiple of the time to copy it.

Copying reads and writes every element once, as rounding at best does. Copy, eager and compiled
calls take turns, in an order that is drawn anew each turn, and each is divided by the copy of its
own turn, so that a disturbance by other processes meets all alike. On a GPU a turn is several calls
on larger tensors, which no cache holds, so that what is timed is its memory and not how fast calls
are made. Compiling is part of the warm-up, which is not timed. With a backward pass, gradients of
the tensor and of the scales that a format learns are computed too. Aims are marked where a median
misses them.

Run:
    python benchmarks/formats.py
    python benchmarks/formats.py --formats "Integer(width=4)" MXFP --threads 1 --device cuda
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from command_line import add_device, add_formats_and_threads, machine, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adls.bench import Rounds, Spread, alternate
from lightning_adls.bench.workloads.devices import current
from lightning_adls.formats import NumberFormat

SHAPES = {
    "cpu": {"activation": (8, 128, 768), "weight": (768, 3072)},
    "cuda": {"activation": (256, 512, 768), "weight": (8192, 8192)},
}
"""By device, of a linear layer of BERT-base, with 8 sequences of 128 tokens and 256 of 512; the
second weight is that of a larger network."""

CALLS = {"cpu": 1, "cuda": 10}
"""By device, calls of a turn."""

AIMS = {"eager": 8.0, "compiled": 3.0}
"""Copies that rounding may take, without a backward pass."""


def cell(spread: Spread, aim: float = math.inf) -> str:
    """Median, and 10th and 90th percentile; marked if the median is above the aim."""
    missed = " !" if spread.median > aim else ""
    return f"{spread.median:.2f} ({spread.p10:.2f} - {spread.p90:.2f}){missed}"


def measure(fmt: NumberFormat, shape: tuple[int, ...], arguments: argparse.Namespace) -> list[str]:
    """Cells of a row: time to copy in ms, then times to round as multiples of it."""
    device, rounds = arguments.device, Rounds(timed=arguments.repeats)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    leaves = [x.clone().requires_grad_()]
    if (scales := fmt.initial_scales()) is not None:
        leaves.append(scales.to(device).requires_grad_())
    torch.compiler.reset()  # torch stops compiling after a few formats otherwise

    # A function of its own for each format: torch.compile recognises functions by their code.
    def rounded(*tensors: Tensor) -> Tensor:
        return fmt(*tensors)

    ways: dict[str, Callable[..., Tensor]] = {"eager": rounded}
    if not arguments.no_compile:
        ways["compiled"] = torch.compile(rounded, fullgraph=True, dynamic=False)
    calls: dict[str, Callable[[], object]] = {"copy": lambda: x.clone()}
    for name, way in ways.items():
        calls[name] = partial(way, x)
        calls[f"{name}, backward"] = partial(with_backward, way, leaves, grad)
    count = CALLS[device.type]
    turns = {name: partial(repeat, call, count) for name, call in calls.items()}
    with torch.no_grad(), current(device):
        found = alternate(turns, rounds, arguments.clock)
        times_ms = {name: ms / count for name, ms in found.items()}
    copy_ms = times_ms.pop("copy")
    ratios = {name: Spread.of(ms / copy_ms) for name, ms in times_ms.items()}
    cells = [cell(ratio, AIMS.get(name, math.inf)) for name, ratio in ratios.items()]
    return [cell(Spread.of(copy_ms)), *cells]


def repeat(call: Callable[[], object], count: int) -> None:
    """Call it several times."""
    for _ in range(count):
        call()


@torch.enable_grad()
def with_backward(
    rounded: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Round the first of ``leaves``, by the scales after it, and take the gradients of all."""
    return torch.autograd.grad(rounded(*leaves), leaves, grad)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_formats_and_threads(parser)
    parser.add_argument("--repeats", type=positive, default=30, help="turns (default: 30)")
    parser.add_argument(
        "--processor-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        help="count seconds of computing, which other processes disturb less (default: wall time)",
    )
    add_device(parser)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each format and shape."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine(arguments.device))
    print(
        f"Median (10th - 90th percentile) of {arguments.repeats} turns; rounding in copies, by "
        f"{'processor' if arguments.clock else 'wall'} time."
    )
    names = ["eager"] if arguments.no_compile else ["eager", "compiled"]
    aims = ", ".join(f"{name} {AIMS[name]:g}" for name in names)
    print(f"Aims without a backward pass: {aims}; a ! marks what is above.")
    columns = ["copy (ms)"]
    for name in names:
        columns += [name, f"{name}, with backward"]
    table = Table("format", "tensor", *columns)
    for fmt in arguments.formats:
        for name, shape in SHAPES[arguments.device.type].items():
            cells = measure(fmt, shape, arguments)
            table.add_row(str(fmt), f"{name} {shape}", *cells)
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    main()

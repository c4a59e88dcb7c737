"""Time to round a tensor to each number format, as a multiple of the time to copy it.

Copying reads and writes every element once, as rounding at best does. Copy, eager and compiled
calls take turns, so that a disturbance by other processes meets all three alike.

Run:
    python benchmarks/formats.py
    python benchmarks/formats.py --formats "Integer(width=4)" MXFP --threads 1 --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adls.formats import NumberFormat, parse

SHAPES = {"activation": (8, 128, 768), "weight": (768, 3072)}
"""Of a linear layer of BERT-base, with 8 sequences of 128 tokens."""


def time_ms(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def medians_ms(
    calls: Sequence[Callable[[], object]], device: torch.device, repeats: int
) -> list[float]:
    """Median time of each call, all of them called in turn, after three rounds of warming up."""
    rounds = [[time_ms(call, device) for call in calls] for _ in range(3 + repeats)]
    return [statistics.median(times) for times in zip(*rounds[3:], strict=True)]


def measure(
    fmt: NumberFormat, shape: tuple[int, ...], device: torch.device, repeats: int
) -> tuple[float, float, float]:
    """Time to copy in ms, and time to round as a multiple of it, eager and compiled."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    torch.compiler.reset()  # torch stops compiling after a few formats otherwise

    # A function of its own for each format: torch.compile recognises functions by their code.
    def rounded(x: Tensor) -> Tensor:
        return fmt(x)

    compiled = torch.compile(rounded, fullgraph=True, dynamic=False)
    with torch.no_grad():
        copy, eager, fast = medians_ms(
            [lambda: x.clone(), lambda: rounded(x), lambda: compiled(x)], device, repeats
        )
    return copy, eager / copy, fast / copy


def format_argument(text: str) -> NumberFormat:
    """Parse a format; argparse shows the message of this kind of error only."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        type=format_argument,
        default=[cls() for cls in NumberFormat.classes.values()],
        help="formats to time, as text (default: every format with its defaults)",
    )
    parser.add_argument("--repeats", type=int, default=30, help="rounds timed (default: 30)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what torch chooses)")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each format."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    where = f"{arguments.device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    table = Table(title=f"Time to round, in copies of the tensor ({where})")
    table.add_column("format")
    for name, shape in SHAPES.items():
        table.add_column(f"{name} {shape}\ncopy (ms)", justify="right")
        table.add_column("eager", justify="right")
        table.add_column("compiled", justify="right")
    for fmt in arguments.formats:
        cells = []
        for shape in SHAPES.values():
            copy, eager, fast = measure(fmt, shape, arguments.device, arguments.repeats)
            cells += [f"{copy:.2f}", f"{eager:.1f}", f"{fast:.1f}"]
        table.add_row(str(fmt), *cells)
    Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    main()

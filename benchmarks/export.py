"""Exported files: GB/s of a model that is written and read, and memory.

A model of linear layers is saved and loaded in each format. GB are those of its weights in float32,
so that formats can be compared: what is on the disk is smaller. `packed` keeps weights in their
codes, `load` decodes them and looks whether the layer rounds them to themselves. Memory is what
torch allocates at most beside the model, in MB; a layer has 4.2 MB. What decoding takes by itself
is said by decoding.py.

Run:
    python benchmarks/export.py
    python benchmarks/export.py --formats "Integer(width=3)" MXFP --layers 12 --threads 1
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from command_line import add_formats_and_threads, machine, positive
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_adls.bench import peak_bytes
from lightning_adls.export import load, save
from lightning_adls.formats import NumberFormat
from lightning_adls.kernels import encode_cpu
from lightning_adls.kernels.compiled import PAYS_AFTER
from lightning_adls.transforms import Quantize

WIDTH = 1024


def network(layers: int) -> nn.Module:
    """Square linear layers."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call, after one that is not timed."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def measure(fmt: NumberFormat, arguments: argparse.Namespace, path: Path) -> list[str]:
    """Cells of a row."""
    torch.manual_seed(0)
    model = network(arguments.layers).eval()
    Quantize({"*": {"weight": fmt}})(model)
    size_gb = arguments.layers * WIDTH**2 * 4 / 1e9
    repeats = arguments.repeats
    writing = size_gb / seconds(lambda: save(model, path), repeats)
    memory = [peak_bytes(lambda: save(model, path))]
    fresh = iter([network(arguments.layers) for _ in range(2 * (repeats + 1))])
    packed = size_gb / seconds(lambda: load(path, next(fresh), packed=True), repeats)
    plain = size_gb / seconds(lambda: load(path, next(fresh)), repeats)
    empty = network(arguments.layers)
    memory.append(peak_bytes(lambda: load(path, empty)))
    return [
        f"{path.stat().st_size / 1e6:.2f}",
        f"{writing:.2f}",
        f"{packed:.2f}",
        f"{plain:.2f}",
        *(f"{size / 1e6:.1f}" for size in memory),
    ]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_formats_and_threads(parser)
    parser.add_argument("--layers", type=positive, default=8, help="of the model (default: 8)")
    parser.add_argument("--repeats", type=positive, default=5, help="of each call (default: 5)")
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each format."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine(torch.device("cpu")))
    encode_cpu.KERNELS.pay(PAYS_AFTER)  # as in a process that writes a large model
    table = Table(
        *("format", "file (MB)", "write (GB/s)", "packed (GB/s)", "load (GB/s)"),
        *("write (MB)", "load (MB)"),
    )
    with TemporaryDirectory() as folder:
        for fmt in arguments.formats:
            table.add_row(str(fmt), *measure(fmt, arguments, Path(folder) / "a.safetensors"))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

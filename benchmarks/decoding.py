"""Time to decode a packed weight, as a multiple of the time to copy the decoded one.

Torch's operators, the kernel of the device (C++ on a CPU, Triton on a GPU) and the copy take turns,
in an order that is drawn anew each turn, and each is divided by the copy of its own turn. On a GPU
the weight is larger than its cache and a turn is several calls, so that memory is timed and not how
fast calls are made.

Run:
    python benchmarks/decoding.py
    python benchmarks/decoding.py --device cuda --dtype bfloat16 --formats MXInt "Integer(width=3)"
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from command_line import add_device, add_formats_and_threads, machine, positive
from formats import CALLS, repeat
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adls.bench import Rounds, Spread, alternate
from lightning_adls.bench.workloads.devices import current
from lightning_adls.formats import NumberFormat
from lightning_adls.kernels import decode_compiled
from lightning_adls.kernels.compiled import PAYS_AFTER
from lightning_adls.kernels.decode_torch import decode_torch
from lightning_adls.kernels.encoding import encode
from lightning_adls.kernels.lookup import Lookup

SIZES = {"cpu": 1024, "cuda": 8192}
"""By device, rows and columns of the weight."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def cell(spread: Spread | None) -> str:
    """Median, and 10th and 90th percentile."""
    return f"{spread.median:.1f} ({spread.p10:.1f} - {spread.p90:.1f})" if spread else "-"


def measure(fmt: NumberFormat, arguments: argparse.Namespace) -> list[str]:
    """Cells of a row: time to copy in ms, then times to decode as multiples of it."""
    device: torch.device = arguments.device
    size = SIZES[device.type]
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    coded = encode(fmt, weight.to(device, DTYPES[arguments.dtype]))
    shared = coded.shared
    scales = shared if shared is not None and shared.is_floating_point() else None
    lookup = Lookup.of(coded.shapes, scales, device)

    def by_torch() -> Tensor:
        made = Lookup.of(coded.shapes, scales, device)  # a part of the work
        return decode_torch(coded.shapes, made, coded.codes, coded.shared, coded.mask)

    calls: dict[str, Callable[[], object]] = {"copy": coded.decode().clone, "torch": by_torch}
    if lookup is not None and (device.type == "cuda" or decode_compiled.KERNELS.pay(PAYS_AFTER)):
        calls["kernel"] = coded.decode  # by the operator, which takes the kernel now
    count = CALLS[device.type]
    turns = {name: partial(repeat, call, count) for name, call in calls.items()}
    with torch.no_grad(), current(device):
        times_ms = alternate(turns, Rounds(timed=arguments.repeats))
    copy_ms = times_ms["copy"]
    ratios = {name: Spread.of(times_ms[name] / copy_ms) for name in calls}
    return [f"{copy_ms.median() / count:.3f}", cell(ratios["torch"]), cell(ratios.get("kernel"))]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_formats_and_threads(parser)
    parser.add_argument("--repeats", type=positive, default=25, help="turns (default: 25)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weight (default: float32)"
    )
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each format."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine(arguments.device))
    table = Table("format", "copy (ms)", "decode: torch (copies)", "kernel (copies)")
    for fmt in arguments.formats:
        table.add_row(str(fmt), *measure(fmt, arguments))
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main()

"""What scoring formats costs, in forwards of the network over the same samples.

A row has the seconds of the processor that so many formats take, and how many forwards without
gradient that is: of batches as a training has them, and of one sample at a time, which is how
scores are found. Formats are MXInt, BlockFP, MXFP, Integer and minifloats of many widths, for
inputs, weights and biases. The network is a BERT with random weights.

Run:
    python benchmarks/sensitivity.py
    python benchmarks/sensitivity.py --hidden-size 384 --layers 6 --formats 1 100 --samples 64
"""

import argparse
import random
from collections.abc import Callable
from functools import partial
from time import process_time

import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adls import TextClassifier, bert, sensitivity

FORMATS = [
    *(f"MXInt(width={w}, block_size={b})" for w in range(2, 9) for b in (16, 32, 64)),
    *(f"BlockFP(width={w}, block_size={b})" for w in range(3, 9) for b in (16, 32, 64)),
    *(f"MXFP(exponent_width={e}, mantissa_width={m})" for e, m in ((4, 3), (2, 3), (3, 2), (2, 1))),
    *(f"Integer(width={w}, frac_width={f})" for w in range(3, 10) for f in range(w - 4, w + 3)),
    *(f"MinifloatIEEE(width={w}, exponent_width={e})" for w in (5, 6, 7, 8) for e in (2, 3)),
]
_BATCH = 16


def main() -> None:
    """Print a row for each number of formats."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", type=positive, nargs="+", default=[1, 10, 100])
    parser.add_argument("--samples", type=positive, default=32)
    parser.add_argument("--max-length", type=positive, default=256, help="tokens of a sample")
    parser.add_argument("--hidden-size", type=positive, default=128)
    parser.add_argument("--layers", type=positive, default=2)
    parser.add_argument("--repeats", type=positive, default=3)
    arguments = parser.parse_args()
    if max(arguments.formats) > len(FORMATS):
        parser.error(f"--formats {max(arguments.formats)}: there are {len(FORMATS)}")
    torch.manual_seed(0)
    network = bert(
        vocab_size=1000,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden_size // 32,
        intermediate_size=4 * arguments.hidden_size,
        max_position_embeddings=arguments.max_length,
    )
    module = TextClassifier(network).eval()
    shape = arguments.samples, arguments.max_length
    batch = {
        "input_ids": torch.randint(5, 1000, shape),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(2, shape[:1]),
    }
    # Any of them are of all families.
    formats = random.Random(0).sample(FORMATS, len(FORMATS))
    seconds: dict[str | int, list[float]] = {}
    for _ in range(arguments.repeats):  # in turns, so that all meet the same
        for size in (_BATCH, 1):
            spent = timed(partial(forward, module, batch, size))
            seconds.setdefault(f"forward {size}", []).append(spent)
        for count in arguments.formats:
            spent = timed(partial(sensitivity, module, [batch], formats[:count]))
            seconds.setdefault(count, []).append(spent)
    least = {name: min(times) for name, times in seconds.items()}
    title = f"{shape[0]} samples of {shape[1]} tokens; {machine(torch.device('cpu'))}"
    headers = ("formats", "CPU s", f"forwards, {_BATCH} at a time", "forwards, one at a time")
    table = Table(*headers, title=title)
    for count in arguments.formats:
        ratios = [f"{least[count] / least[f'forward {size}']:.1f}" for size in (_BATCH, 1)]
        table.add_row(str(count), f"{least[count]:.2f}", *ratios)
    Console(width=100).print(table)


@torch.no_grad()
def forward(module: TextClassifier, batch: dict[str, Tensor], size: int) -> None:
    """The loss of all samples, so many at a time."""
    for start in range(0, len(batch["labels"]), size):
        module.loss({name: x[start : start + size] for name, x in batch.items()})


def timed(call: Callable[[], object]) -> float:
    """Seconds of the processor, which other programs do not lengthen much."""
    start = process_time()
    call()
    return process_time() - start


if __name__ == "__main__":
    main()

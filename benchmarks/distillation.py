"""Time of a fit that learns from a teacher, as a multiple of the same fit that learns from labels.

A fit is a few steps of Lightning's Trainer on a BERT that rounds its linear layers to 8 bits; the
teacher is the network as it was. The fits take turns, in an order that is drawn anew each round,
and each is divided by the plain one of its own round.

Run:
    python benchmarks/distillation.py --threads 2
    python benchmarks/distillation.py --steps 40 --rounds 9 --device cuda
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse
import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from command_line import add_device, machine, positive
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from lightning_adls import Distillation, Quantize, TextClassifier, bert
from lightning_adls.bench import Rounds, alternate

PLAIN = "labels alone"
FITS: dict[str, Callable[[], list[L.Callback]]] = {
    PLAIN: list,
    "logits": lambda: [Distillation()],
    "logits, teacher in bfloat16": lambda: [Distillation(precision="bf16")],
    "logits and hidden states": lambda: [Distillation(hidden=1.0)],
}
ROWS, TOKENS = 32, 128


class Batches(Dataset[dict[str, torch.Tensor]]):
    """The same batch as often as asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        ids = torch.randint(1000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
        self.batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.arange(ROWS) % 2,
        }

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return self.batch


def fit(callbacks: list[L.Callback], steps: int, device: torch.device) -> None:
    """Train a fresh network."""
    torch.manual_seed(0)
    network = bert(vocab_size=1000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
    loader: DataLoader[Any] = DataLoader(Batches(steps), batch_size=None)
    L.Trainer(
        max_epochs=1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(TextClassifier(network, [Quantize({"*": "MXInt(width=8)"})]), loader)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=positive, default=20, help="of a fit (default: 20)")
    parser.add_argument("--rounds", type=positive, default=5, help="timed ones (default: 5)")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Print a table with one row for each fit."""
    arguments = parse_arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine(arguments.device))
    print(
        f"Median (smallest - largest) of {arguments.rounds} rounds; {arguments.steps} steps of "
        f"{ROWS} rows of {TOKENS} tokens, start of the fit included."
    )
    calls = {
        name: lambda make=make: fit(make(), arguments.steps, arguments.device)
        for name, make in FITS.items()
    }
    times_ms = alternate(calls, Rounds(timed=arguments.rounds, warmup=1))
    table = Table("fit", "times the plain one")
    for name, values in times_ms.items():
        ratio = values / times_ms[PLAIN]
        table.add_row(name, f"{ratio.median():.2f} ({ratio.min():.2f} - {ratio.max():.2f})")
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    main()

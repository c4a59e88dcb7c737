"""Seconds that a plan takes, for the 74 linear layers of BERT base and 50 formats.

Scores are drawn at random, lower by a factor of four with each bit. A row has the median over calls
of `plan`, which reads the model and the scores and then chooses.

Run:
    python benchmarks/plan.py
    python benchmarks/plan.py --budgets 3 4 5 --repeats 20
"""

import argparse
import random
from statistics import median
from time import perf_counter

import torch
from command_line import machine, positive
from rich.console import Console
from rich.table import Table

from lightning_adls.models import bert
from lightning_adls.planning import Scores, plan
from lightning_adls.planning.candidates import read_candidates
from lightning_adls.planning.scores import cells_of
from lightning_adls.transforms.walk import linear_layers

FORMATS = [
    *(f"MXInt(width={w}, block_size={b})" for w in range(2, 9) for b in (16, 32)),
    *(f"Integer(width={w}, frac_width={f})" for w in range(3, 9) for f in range(w - 3, w + 3)),
]


def main() -> None:
    """Print a row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=float, nargs="+", default=[3.0, 4.0, 5.0, 6.0])
    parser.add_argument("--repeats", type=positive, default=10)
    arguments = parser.parse_args()
    with torch.device("meta"):
        model = bert(
            vocab_size=1000,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
        )
    layers = linear_layers(model)
    draw = random.Random(0)
    values = {
        cell: draw.random() * 4.0 ** -int(cell[2].partition("width=")[2].partition(",")[0])
        for cell in cells_of(layers, read_candidates(FORMATS, "plan"))
    }
    scores = Scores(values, "random", 1, "")
    title = f"{len(layers)} layers, {len(FORMATS)} formats; {machine(torch.device('cpu'))}"
    table = Table("bits per weight", "seconds", title=title)
    for budget in arguments.budgets:
        seconds = []
        for _ in range(arguments.repeats):
            start = perf_counter()
            plan(model, scores, FORMATS, bits_per_weight=budget)
            seconds.append(perf_counter() - start)
        table.add_row(f"{budget:g}", f"{median(seconds):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()

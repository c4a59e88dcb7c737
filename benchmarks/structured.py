"""How many times faster a BERT is without some of its heads and neurons, beside its FLOPs.

The whole network and the pruned one run in turn on the same tokens, in an order that changes from
round to round; the quotient is taken within each round. Weights are random, which changes no time.

Run:
    python benchmarks/structured.py
    python benchmarks/structured.py --shares 0.5 --formats none "MXInt(width=8)" --device cuda
"""

import argparse
import copy

import torch
from command_line import add_device, format_argument, positive
from rich.console import Console
from rich.table import Table

from lightning_adls import bench
from lightning_adls.models import bert
from lightning_adls.transforms import PruneStructured, Quantize
from lightning_adls.transforms.flops import flops_per_sample

VOCABULARY = 30522
NONE = "none"


def format_or_none(text: str) -> str:
    """Check a format, or take the word for none."""
    return text if text == NONE else str(format_argument(text))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument(
        "--formats", nargs="+", type=format_or_none, default=[NONE, "LearnedInteger(width=8)"]
    )
    parser.add_argument("--hidden_size", default=128, type=positive)
    parser.add_argument("--num_hidden_layers", default=2, type=positive)
    parser.add_argument("--num_attention_heads", default=2, type=positive)
    parser.add_argument("--intermediate_size", default=512, type=positive)
    parser.add_argument("--batch", default=64, type=positive)
    parser.add_argument("--tokens", default=128, type=positive)
    parser.add_argument("--rounds", default=40, type=positive)
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Print a row for each share and format."""
    given = parse_arguments()
    torch.manual_seed(0)
    network = bert(
        vocab_size=VOCABULARY,
        hidden_size=given.hidden_size,
        num_hidden_layers=given.num_hidden_layers,
        num_attention_heads=given.num_attention_heads,
        intermediate_size=given.intermediate_size,
        max_position_embeddings=max(512, given.tokens),
    )
    tokens = bench.token_ids(given.batch, given.tokens, vocab_size=VOCABULARY)
    print(
        f"{torch.get_num_threads()} threads on {given.device}, torch {torch.__version__}; "
        f"{given.batch} x {given.tokens} tokens; medians (10th - 90th percentile)"
    )
    table = Table("share", "format", "times fewer FLOPs", "times faster", "ms before", "ms after")
    for share in given.shares:
        for text in given.formats:
            whole = copy.deepcopy(network)
            if text != NONE:
                Quantize({"*": {"input": text, "weight": text}})(whole)
                whole.train()(**tokens)  # scales that are learned are fitted to the first batch
            pruned = copy.deepcopy(whole)
            PruneStructured(heads=share, neurons=share)(pruned)
            fewer = flops_per_sample(whole, given.tokens) / flops_per_sample(pruned, given.tokens)
            found = bench.speedup(
                whole,
                pruned,
                [tokens],
                device=given.device,
                rounds=bench.Rounds(timed=given.rounds),
            )
            cells = [
                f"{each.median:.2f} ({each.p10:.2f} - {each.p90:.2f})"
                for each in (found.ratio, found.before_ms, found.after_ms)
            ]
            table.add_row(f"{share:g}", text, f"{fewer:.2f}", *cells)
    Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    main()

"""What compiling costs in a fresh process, and what a step of training gains by it.

A BERT in each number format is compiled whole and by its layers, each time in a process of its own:
first with an empty cache on disk, then with what the first process left there. Seconds are those
from the first batch to the first step of training and validation, beyond what the same steps take
later; imports are not counted. Steps are ratios to eager ones, in turn in the same process.

Run:
    python benchmarks/compiling.py
    python benchmarks/compiling.py --formats none "MXInt(width=8)" --num_hidden_layers 12
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.bench import Rounds, alternate
from lightning_adls.compiling import compile_layers, compile_whole
from lightning_adls.formats import NumberFormat
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

NONE = "none"
VOCABULARY = 1000
KINDS = {"whole": compile_whole, "layers": compile_layers}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", nargs="+", default=[NONE, *NumberFormat.classes])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--hidden_size", default=128, type=int)
    parser.add_argument("--num_hidden_layers", default=2, type=int)
    parser.add_argument("--batch", default=32, type=int)
    parser.add_argument("--tokens", default=128, type=int)
    parser.add_argument("--rounds", default=15, type=int, help="steps of each, after three")
    parser.add_argument("--threads", default=os.cpu_count() or 1, type=int)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FORMAT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def network(given: argparse.Namespace, text: str) -> nn.Module:
    """A BERT whose linear layers are rounded, with learned scales fitted."""
    torch.manual_seed(0)
    model = bert(
        vocab_size=VOCABULARY,
        hidden_size=given.hidden_size,
        num_hidden_layers=given.num_hidden_layers,
        intermediate_size=4 * given.hidden_size,
        max_position_embeddings=given.tokens,
    )
    if text != NONE:
        Quantize({"*": {"input": text, "weight": text}})(model)
        model(**inputs(given))
    return model


def inputs(given: argparse.Namespace) -> dict[str, Tensor]:
    """Texts of which the last is shorter; sizes are marked as a TextClassifier marks them."""
    ids = torch.randint(VOCABULARY, (given.batch, given.tokens))
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    for tensor in batch.values():
        torch._dynamo.maybe_mark_dynamic(tensor, [0, 1])
    return batch


class Training:
    """Steps of AdamW, and evaluation, of one network on one batch."""

    def __init__(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(self) -> None:
        """One step of training."""
        self.model(**self.batch).logits.square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self) -> None:
        """One batch of validation."""
        self.model.eval()
        with torch.no_grad():
            self.model(**self.batch)
        self.model.train()


def seconds_of(*calls: Any) -> float:
    """Of all calls, one after the other."""
    begin = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - begin


def measure_one(given: argparse.Namespace) -> dict[str, float]:
    """In a fresh process: seconds of compiling, what was on disk, and steps relative to eager."""
    torch.set_num_threads(given.threads)
    kind, text = given.one
    model, batch = network(given, text), inputs(given)
    eager = Training(copy.deepcopy(model), batch)
    KINDS[kind](model)
    compiled = Training(model, batch)
    first = seconds_of(compiled.step, compiled.evaluate)
    later = seconds_of(compiled.step, compiled.evaluate)
    counters = torch._dynamo.utils.counters
    found = {
        "compiling_s": first - later,
        "graphs": counters["stats"]["unique_graphs"],
        "hits": counters["inductor"]["fxgraph_cache_hit"],
        "misses": counters["inductor"]["fxgraph_cache_miss"]
        + counters["aot_autograd"]["autograd_cache_bypass"],
    }
    if given.rounds:
        calls = {"eager": eager.step, "compiled": compiled.step}
        times = alternate(calls, Rounds(timed=given.rounds, warmup=3))
        found["eager_ms"] = times["eager"].median().item()
        found["relative"] = (times["compiled"] / times["eager"]).median().item()
    return found


def fresh_process(given: argparse.Namespace, kind: str, text: str, cache: str, rounds: int) -> Any:
    """What :func:`measure_one` finds in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, text, "--rounds", str(rounds)]
    for name in ("hidden_size", "num_hidden_layers", "batch", "tokens", "threads"):
        command += [f"--{name}", str(getattr(given, name))]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def main() -> None:
    """Print a row for each format and way to compile."""
    given = parse_arguments()
    if given.one:
        print(json.dumps(measure_one(given)))
        return
    print(
        f"{given.threads} threads, torch {torch.__version__}; {given.num_hidden_layers} layers of "
        f"{given.hidden_size}, {given.batch} x {given.tokens} tokens"
    )
    columns = ("cold, s", "warm, s", "graphs", "found", "missed", "eager, ms", "of eager")
    print(f"{'format':<20}{'compiled':>10}" + "".join(f"{name:>12}" for name in columns))
    for text in given.formats:
        for kind in given.kinds:
            with tempfile.TemporaryDirectory() as cache:
                cold = fresh_process(given, kind, text, cache, 0)
                warm = fresh_process(given, kind, text, cache, given.rounds)
            cells = (
                *(f"{found['compiling_s']:.1f}" for found in (cold, warm)),
                *(str(warm[name]) for name in ("graphs", "hits", "misses")),
                *(f"{warm['eager_ms']:.1f}", f"{warm['relative']:.3f}"),
            )
            # At once: all formats take half an hour.
            print(f"{text:<20}{kind:>10}" + "".join(f"{c:>12}" for c in cells), flush=True)


if __name__ == "__main__":
    main()

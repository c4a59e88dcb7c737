"""Real low precision on the CPU: a lowered BERT against float32, bfloat16 and other engines.

A BERT with random weights is run as it is in float32 and bfloat16, eager and compiled, and
quantised to integers of 8 bits: as torch emulates them, lowered to int8 products, and as the graph
of `export.onnx` (QuantizeLinear, DequantizeLinear), in ONNX Runtime and in OpenVINO. Calls take
turns. Each row is a ratio to compiled float32, round by round: 2.00 is twice as fast, beside the
10th and 90th percentile. The difference is that of logits from the emulated ones, over the largest.

Two rows of ONNX Runtime tell of the same graph: its default saturates sums of two products on CPUs
without VNNI. A third has its own dynamic quantisation, which takes scales from each batch.

Run:
    python benchmarks/lowered.py
    python benchmarks/lowered.py --network 2x128 --batches 1 8 --rounds 50
    python benchmarks/lowered.py --network 12x768 --batches 1 --what lowered onnxruntime openvino
    python benchmarks/lowered.py --format MXInt --what emulated lowered
    python benchmarks/lowered.py --clock process --threads 1   # beside other work
"""

import argparse
import logging
import re
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from command_line import format_argument, machine, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_adls import Quantize, bert, calibrate, export
from lightning_adls.bench import Rounds, Spread, alternate
from lightning_adls.compiling import compile_whole
from lightning_adls.formats import Integer, NumberFormat
from lightning_adls.kernels.int8 import fastest_engine

BASE = "float32 compiled"
WHAT = ("eager", "bfloat16", "emulated", "lowered", "onnxruntime", "openvino")
VOCABULARY = 2000

Call = Callable[[], object]
Batch = Mapping[str, Tensor]


def network(layers: int, hidden: int) -> nn.Module:
    """A BERT in eval mode, with heads of 64 and random weights."""
    torch.manual_seed(0)
    return bert(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 1),
        intermediate_size=4 * hidden,
    ).eval()


def texts(batch: int, tokens: int) -> dict[str, Tensor]:
    """Texts of full length, as a tokenizer gives them."""
    ids = torch.randint(1, VOCABULARY, (batch, tokens))
    ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}


def quantised(model: nn.Module, fmt: NumberFormat, batch: Batch) -> nn.Module:
    """A copy whose linear layers round inputs and weights to a format that suits the batch."""
    new, recipe = deepcopy(model), Quantize({"*": {"input": fmt, "weight": fmt}})
    calibrate(new, recipe, [batch], forward=lambda each: new(**each))(new)
    return new


def onnxruntime_call(path: Path, batch: Batch, exact: bool, threads: int) -> Call:
    """A call of a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return partial(session.run, None, {name: batch[name].numpy() for name in names})


def openvino_call(path: Path, batch: Batch, threads: int) -> Call:
    """A call of a graph in OpenVINO, for the shortest time of one batch."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    names = [each.any_name for each in request.model_inputs]
    return partial(request.infer, {name: batch[name].numpy() for name in names})


def dynamic_graph(model: nn.Module, folder: Path) -> Path:
    """A float32 graph whose weights ONNX Runtime has quantised, and whose inputs it will."""
    from onnxruntime import quantization

    path = folder / "dynamic.onnx"
    logging.disable(logging.WARNING)
    plain = export.onnx(model, folder / "plain.onnx")
    quantization.quantize_dynamic(plain, path, weight_type=quantization.QuantType.QInt8)
    return path


class Contestants:
    """What is timed for one network; compiled for each batch size by itself."""

    def __init__(
        self, model: nn.Module, fmt: NumberFormat, what: list[str], folder: Path, tokens: int
    ) -> None:
        self.what, sample = what, texts(4, tokens)
        self.rounding = quantised(model, fmt, sample)
        self.eager, self.compiled = {}, {BASE: model}
        if "eager" in what:
            self.eager["float32 eager"] = model
        if "bfloat16" in what:
            self.compiled["bfloat16 compiled"] = deepcopy(model).bfloat16()
            self.eager["bfloat16 eager"] = self.compiled["bfloat16 compiled"]
        if "emulated" in what:
            self.compiled["emulated compiled"] = self.rounding
        if "lowered" in what:
            self.compiled["lowered compiled"] = export.lower(self.rounding)
            self.eager["lowered eager"] = self.compiled["lowered compiled"]
        if {"onnxruntime", "openvino"} & set(what):
            self.graph = export.onnx(self.rounding, folder / "integers.onnx")
        if "onnxruntime" in what:
            self.dynamic = dynamic_graph(model, folder)

    def calls(self, batch: Batch, threads: int) -> dict[str, Call]:
        """By name."""
        calls: dict[str, Call] = {}
        for name, model in self.compiled.items():
            compile_whole(copy := deepcopy(model))
            calls[name] = partial(_logits, copy, batch)
        calls |= {name: partial(_logits, model, batch) for name, model in self.eager.items()}
        if "onnxruntime" in self.what:
            ort = partial(onnxruntime_call, batch=batch, threads=threads)
            calls["ONNX Runtime int8"] = ort(self.graph, exact=True)
            calls["ONNX Runtime int8, default"] = ort(self.graph, exact=False)
            calls["ONNX Runtime, dynamic"] = ort(self.dynamic, exact=True)
        if "openvino" in self.what:
            calls["OpenVINO int8"] = openvino_call(self.graph, batch, threads)
        return calls


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    found: Tensor = model(**batch).logits
    return found


def difference(found: Any, expected: Tensor) -> float:
    """The largest difference of logits from those that torch emulates, over the largest logit."""
    if not isinstance(found, Tensor):
        found = torch.from_numpy(np.asarray(found[0]))
    return float((found.float() - expected).abs().max() / expected.abs().max())


def rows(arguments: argparse.Namespace, text: str, folder: Path) -> list[list[str]]:
    """Cells of the table for one network."""
    layers, hidden = map(int, text.split("x"))
    model, fmt = network(layers, hidden), arguments.format
    contestants = Contestants(model, fmt, arguments.what, folder, arguments.tokens)
    clock = time.process_time if arguments.clock == "process" else None
    found = []
    for size in arguments.batches:
        batch = texts(size, arguments.tokens)
        with torch.inference_mode():
            calls = contestants.calls(batch, torch.get_num_threads())
            expected = _logits(contestants.rounding, batch)
            off = {name: difference(call(), expected) for name, call in calls.items()}
            times = alternate(calls, Rounds(timed=arguments.rounds), clock)
        for name, each in times.items():
            ratio, median = Spread.of(times[BASE] / each), Spread.of(each).median
            spread = f"{ratio.median:.2f} ({ratio.p10:.2f} - {ratio.p90:.2f})"
            found.append([text, str(size), name, spread, f"{median:.1f}", f"{off[name]:.0e}"])
    return found


def _network(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not layers and width, as 12x768")
    return text


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network",
        nargs="+",
        type=_network,
        default=["2x128", "12x768"],
        help="encoder layers and width (default: 2x128 12x768)",
    )
    parser.add_argument(
        "--batches", nargs="+", type=positive, default=[1, 8, 32], help="sizes (default: 1 8 32)"
    )
    parser.add_argument("--tokens", type=positive, default=128, help="of a text (default: 128)")
    parser.add_argument(
        "--what",
        nargs="*",
        choices=WHAT,
        default=list(WHAT),
        help="what is timed beside compiled float32 (default: all)",
    )
    parser.add_argument(
        "--format",
        type=format_argument,
        default=Integer(),
        help="of inputs and weights (default: Integer, whose step is chosen from data)",
    )
    parser.add_argument("--rounds", type=positive, default=10, help="timed calls (default: 10)")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="time that passes, or that this process computes on all threads (default: wall)",
    )
    return parser.parse_args()


def main() -> None:
    """Print a table with a row for each network, batch and contestant."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    has = torch.cpu.get_capabilities()
    names = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    print(machine(torch.device("cpu")))
    print(f"instructions: {', '.join(name for name in names if has.get(name)) or 'none of these'}")
    print(f"int8 products: {fastest_engine()}")
    table = Table("network", "batch", "what", "times as fast", "ms", "difference")
    for text in arguments.network:
        with TemporaryDirectory() as folder:
            for row in rows(arguments, text, Path(folder)):
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

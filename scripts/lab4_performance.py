"""Lab 4: what makes a BERT fast and small: compiling, fused attention, packed weights.

Three parts, each measured on every device that is asked for. `compile` repeats the measurement that
misleads (few calls, compilation included) beside one that does not, and counts recompilations over
changing lengths. `attention` compares the textbook formula with torch's fused kernels. `mxint8`
packs weights into 8.25 bits per element, and counts the bytes of a whole BERT. Run:

    python scripts/lab4_performance.py
    python scripts/lab4_performance.py --parts '[attention]' --attention.lengths '[512, 4096]'
    python scripts/lab4_performance.py --devices '[cuda]' --run gpu

What cannot be measured gets a row that says why, and the exit status is 1 only if nothing could be.
Times are not continued: a run of the same name measures everything anew.
"""

import copy
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from lightning_adls import bench
from lightning_adls.bench import Results, Rounds, Row, Variant, attempt
from lightning_adls.bench.attention import Attend, fused, naive, padding_mask, with_gradients
from lightning_adls.bench.packing import gb_per_s, linear_bytes, linear_layers, operators
from lightning_adls.errors import InputError
from lightning_adls.formats import parse
from lightning_adls.kernels import quantize
from lightning_adls.labs import cli
from lightning_adls.labs.environment import environment
from lightning_adls.labs.tables import table
from lightning_adls.models import NetworkFactory, check_length
from lightning_adls.transforms.pack import Pack, memory
from lightning_adls.transforms.quantize import Quantize

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab4")
Part = Literal["compile", "attention", "mxint8"]
PARTS: tuple[Part, ...] = ("compile", "attention", "mxint8")

# Beside those of a Measurement; of the part that is named first in the comment.
EXTRA = (
    "mean_ms",  # compile: of the few first calls, compilation included
    "padded_to",  # compile: lengths are padded to multiples of it
    "padding",  # compile: share of the tokens that are padding
    "first_pass_ms",  # compile: over all lengths, compilation included
    "later_pass_ms",  # compile: over the same lengths again, median
    "mask",  # attention: none, or padding as BERT has it
    "shape",  # mxint8: of the weight
    "moved_bytes",  # mxint8: that must be read and written
    "gb_per_s",  # mxint8: those in 10^9 bytes per second
    "bytes_before",  # mxint8: of the model in float32
    "bytes_after",  # mxint8: of the packed model
)
# Header and format of each column on the screen; the files hold all keys.
FORMATS = {
    "target": ("target", ""),
    "run": ("run", ""),
    "dtype": ("dtype", ""),
    "mask": ("mask", ""),
    "shape": ("weight", ""),
    "batch": ("batch", "d"),
    "padded_to": ("multiple", "d"),
    "padding": ("padding", ".0%"),
    "graphs": ("graphs", "d"),
    "first_call_ms": ("1st ms", ",.0f"),
    "mean_ms": ("mean ms", ",.1f"),
    "compile_s": ("comp. s", ".1f"),
    "median_ms": ("ms", ".3f"),
    "first_pass_ms": ("1st ms", ",.0f"),
    "later_pass_ms": ("later ms", ".1f"),
    "step_ms": ("ms", ".1f"),
    "peak_mb": ("peak MB", ".1f"),
    "max_relative_error": ("error", ".0e"),
    "speedup_over_eager": ("times", ".2f"),
    "break_even": ("even", ""),
    "moved_bytes": ("bytes", ",d"),
    "gb_per_s": ("GB/s", ".1f"),
    "bytes_before": ("float32", ",d"),
    "bytes_after": ("packed", ",d"),
}
_STEPS = (
    *("target", "run", "compile_s", "step_ms", "speedup_over_eager", "break_even"),
    "max_relative_error",
)
COLUMNS: dict[str, tuple[str, ...]] = {
    "few calls": ("run", "first_call_ms", "mean_ms"),
    "steady": _STEPS,
    "training": _STEPS,
    "lengths": ("run", "padded_to", "graphs", "padding", "first_pass_ms", "later_pass_ms"),
    "operators": ("target", "shape", "median_ms", "moved_bytes", "gb_per_s"),
    "linear": ("target", "dtype", "shape", "batch", "median_ms", "moved_bytes", "gb_per_s"),
    "memory": ("target", "bytes_before", "bytes_after"),
}
console = Console()


@dataclass(frozen=True)
class Compiling:
    """What is compiled.

    Args:
        backends: Of ``torch.compile``, a mode of inductor behind it: ``inductor max-autotune``.
            Changing lengths are measured with the first.
        formats: Number formats of quantised BERTs, by their texts.
        batch: Samples per step.
        tokens: Of each sample.
        few: Calls of the measurement that misleads, the first one included.
        lengths: What one compiled model is called with, one after the other.
        multiples: Lengths are padded to multiples of each; 1 leaves them.
        image: Height and width in pixels of what ResNet-18 is called with.

    Raises:
        ValueError: If a number is below 1, or there are no backends or lengths.
    """

    backends: list[str]
    formats: list[str]
    batch: int
    tokens: int
    few: int
    lengths: list[int]
    multiples: list[int]
    image: int = 224

    def __post_init__(self) -> None:
        _check_sizes(self)
        for text in self.backends:
            variant_of(text)
        for text in self.formats:
            parse(text)


@dataclass(frozen=True)
class Attention:
    """Which attention is measured.

    Args:
        backends: Of ``scaled_dot_product_attention``, as in ``torch.nn.attention.SDPBackend``.
        batch: Samples.
        heads: Of each.
        head_size: Of queries, keys and values.
        lengths: In tokens.

    Raises:
        ValueError: If a number is below 1, or there are no backends or lengths.
    """

    backends: list[str]
    batch: int
    heads: int
    head_size: int
    lengths: list[int]

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True)
class Packing:
    """Which weights are packed.

    Args:
        shapes: Of weights, ``[out_features, in_features]``.
        batches: Rows that the linear layers multiply.

    Raises:
        ValueError: If a number is below 1, or there is nothing to measure.
    """

    shapes: list[tuple[int, int]]
    batches: list[int]

    def __post_init__(self) -> None:
        _check_sizes(self)


def _check_sizes(settings: Compiling | Attention | Packing) -> None:
    who = type(settings).__name__
    for name, value in vars(settings).items():
        if value in ([], ()) and name != "formats":
            raise InputError(f"{who}: {name}={value} is empty; give at least one.")
        for entry in value if isinstance(value, list) else [value]:
            for size in entry if isinstance(entry, tuple) else [entry]:
                if isinstance(size, int) and size < 1:
                    raise InputError(f"{who}: {name}={value} has a number below 1.")


def variant_of(backend: str | None, dtype: str = "float32", dynamic: bool | None = None) -> Variant:
    """What a text such as ``inductor reduce-overhead`` stands for; None for eager.

    Raises:
        ValueError: If another backend than inductor has a mode.
    """
    name, _, mode = (backend or "").partition(" ")
    return Variant(name or None, mode or None, dynamic, dtype)


def main(
    config_yaml: str,
    model: Callable[..., nn.Module],
    compiling: Compiling,
    attention: Attention,
    mxint8: Packing,
    parts: list[Part],
    devices: list[str],
    dtypes: list[str],
    rounds: Rounds,
    seed: int = 0,
    run: str = "default",
) -> None:
    """Measure compiling, fused attention and packed weights, on each device.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        model: The BERT: a checkpoint or dimensions.
        compiling: What the part ``compile`` measures.
        attention: What the part ``attention`` measures.
        mxint8: What the part ``mxint8`` measures.
        parts: Which of the parts, some of ``compile``, ``attention`` and ``mxint8``.
        devices: ``cpu``, ``cuda``, ``cuda:1``, ...; one that is missing gets rows that say so.
        dtypes: ``float32``, ``bfloat16``, ``float16``; few calls and lengths in the first alone.
        rounds: How often everything is called.
        seed: Of weights and inputs.
        run: Name of the folder in lightning_logs/lab4.
    """
    folder = LOGS / run
    with cli.refusing():
        if not (parts and devices and dtypes):
            raise InputError("lab4: give at least one of parts, of devices and of dtypes.")
        dtypes = list(dict.fromkeys(dtypes))
        eager = [Variant(dtype=dtype) for dtype in dtypes]
        torch.manual_seed(seed)
        network = model(num_classes=2).eval()
        if "compile" in parts:
            lengths = product(compiling.lengths, compiling.multiples)
            check_length(network, max(compiling.tokens, *(padded(*pair) for pair in lengths)))
        results = Results(folder, EXTRA, environment())
    (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
    work: dict[Part, Callable[[str], None]] = {
        "compile": partial(measure_compile, results, network, compiling, dtypes, rounds),
        "attention": partial(measure_attention, results, attention, eager, rounds),
        "mxint8": partial(measure_mxint8, results, mxint8, eager, rounds),
    }
    for part in (part for part in PARTS if part in parts):
        for device in dict.fromkeys(devices):
            console.print(f"{part} on {device} ...")
            work[part](device)
        if part == "mxint8":
            measure_memory(results, network)
        show(results, part)
        {"compile": draw_compile, "attention": draw_attention, "mxint8": draw_mxint8}[part](results)
    finish(results)


# ---- compile ---------------------------------------------------------------------------------


def measure_compile(
    results: Results,
    network: nn.Module,
    settings: Compiling,
    dtypes: Sequence[str],
    rounds: Rounds,
    device: str,
) -> None:
    """Few calls, steady calls, steps of training, and changing lengths."""
    backends = [None, *dict.fromkeys(settings.backends)]
    variants = [variant_of(backend, dtype) for dtype in dtypes for backend in backends]
    ids = bench.token_ids(settings.batch, settings.tokens, vocab_size=vocabulary(network))
    for backend in backends:
        variant = variant_of(backend, dtypes[0])
        first = partial(bench.first_calls, network, ids, variant, calls=settings.few, device=device)
        row = attempt("BERT", variant, device, first)
        results.add("compile", "few calls", [row], batch=settings.batch, tokens=settings.tokens)
    berts = {"BERT": network} | {text: quantized(network, text) for text in settings.formats}
    rows = bench.measure(berts, ids, variants, device=device, rounds=rounds)
    results.add("compile", "steady", rows)
    measure_resnet(results, settings, variants, rounds, device)
    rows = bench.measure(
        {"BERT": network}, ids, variants, device=device, training=True, rounds=rounds
    )
    results.add("compile", "training", rows)
    for multiple, dynamic in product(settings.multiples, (False, None, True)):
        variant = variant_of(settings.backends[0], dtypes[0], dynamic)
        inputs = list(padded_inputs(settings, multiple, vocabulary(network)))
        over = partial(bench.over_sizes, network, inputs, variant, device=device)
        row = attempt("BERT", variant, device, over)
        total = sum(padded(length, multiple) for length in settings.lengths)
        padding = 1 - sum(settings.lengths) / total
        batch = settings.batch
        results.add("compile", "lengths", [row], batch=batch, padded_to=multiple, padding=padding)


def vocabulary(network: nn.Module) -> int:
    """Number of tokens that a BERT knows."""
    return int(network.config.vocab_size)  # type: ignore[union-attr,arg-type]


def quantized(network: nn.Module, text: str) -> nn.Module:
    """A copy whose linear layers are all in one format."""
    network = copy.deepcopy(network)
    Quantize({"*": text})(network)
    return network


def measure_resnet(
    results: Results, settings: Compiling, variants: list[Variant], rounds: Rounds, device: str
) -> None:
    """ResNet-18 as it is in torchvision, with random weights."""
    try:
        from torchvision.models import resnet18
    except (ImportError, RuntimeError) as failed:  # built for another torch, it is a RuntimeError
        error = f"torchvision cannot be imported, `pip install torchvision`: {failed}"
        row = attempt("ResNet-18", variants[0], device, lambda: {"error": error})
        results.add("compile", "steady", [row])
        return
    images = torch.randn(settings.batch, 3, settings.image, settings.image)
    rows = bench.measure({"ResNet-18": resnet18()}, images, variants, device=device, rounds=rounds)
    results.add("compile", "steady", rows)


def padded(length: int, multiple: int) -> int:
    """The smallest multiple that is no less than ``length``."""
    return -(-length // multiple) * multiple


def padded_inputs(
    settings: Compiling, multiple: int, vocab_size: int
) -> Iterator[dict[str, Tensor]]:
    """One batch of each length, padded as BERT is used to it."""
    for length in settings.lengths:
        ids = bench.token_ids(settings.batch, padded(length, multiple), vocab_size=vocab_size)
        ids["attention_mask"][:, length:] = 0
        yield ids


# ---- attention -------------------------------------------------------------------------------


def measure_attention(
    results: Results, settings: Attention, variants: list[Variant], rounds: Rounds, device: str
) -> None:
    """Naive and fused attention over lengths, forward and with gradients, with and without mask."""
    attends: dict[str, Attend] = {"naive": naive, "sdpa": partial(fused, None)}
    attends |= {f"sdpa {name}": partial(fused, name) for name in settings.backends}
    steps: dict[str, Mapping[str, Callable[..., Any]]] = {
        "forward": attends,
        "forward+backward": {k: partial(with_gradients, attend) for k, attend in attends.items()},
    }
    for tokens in settings.lengths:
        query_key_value = torch.randn(3, settings.batch, settings.heads, tokens, settings.head_size)
        for mask, keep in (("none", None), ("padding", padding_mask(settings.batch, tokens))):
            inputs = [*query_key_value, keep]
            for experiment, targets in steps.items():
                rows = bench.measure(targets, inputs, variants, device=device, rounds=rounds)
                for row in rows:
                    # To the formula in float32, where `measure` knows only the target itself.
                    row["max_relative_error"] = error_of(row, targets, inputs)
                results.add("attention", experiment, rows, tokens=tokens, mask=mask)


@torch.no_grad()
def error_of(
    row: Row, targets: Mapping[str, Callable[..., Any]], inputs: list[Tensor | None]
) -> float | None:
    """Largest relative error to the naive formula in float32, of the output or of the gradients."""
    if row["error"] is not None:
        return None
    place = bench.usable(row["device"])
    try:
        expected = targets["naive"](*bench.placed(inputs, place, torch.float32))
        found = targets[row["target"]](*bench.placed(inputs, place, bench.DTYPES[row["dtype"]]))
    except RuntimeError:  # out of memory: the formula needs more than a kernel that was measured
        return None
    if isinstance(found, Tensor):
        return bench.relative_error(found, expected)
    return max(map(bench.relative_error, found, expected))


# ---- mxint8 ----------------------------------------------------------------------------------


def measure_mxint8(
    results: Results, settings: Packing, variants: list[Variant], rounds: Rounds, device: str
) -> None:
    """Quantise, unpack, multiply; each against the bytes that it must move."""
    for shape in settings.shapes:
        name = "x".join(map(str, shape))
        weight = torch.randn(shape)
        known = operators(shape)
        targets = {operator: function for operator, (function, _) in known.items()}
        inputs = (weight, *quantize(weight))
        for row in bench.measure(targets, inputs, [Variant()], device=device, rounds=rounds):
            moved = known[row["target"]][1]
            speed = {"moved_bytes": moved, "gb_per_s": gb_per_s(row, moved)}
            results.add("mxint8", "operators", [row], shape=name, **speed)
        layers = linear_layers(shape)
        for batch in settings.batches:
            x = torch.randn(batch, shape[1])
            for row in bench.measure(layers, x, variants, device=device, rounds=rounds):
                moved = linear_bytes(row, shape)
                speed = {"moved_bytes": moved, "gb_per_s": gb_per_s(row, moved)}
                results.add("mxint8", "linear", [row], shape=name, **speed)


def measure_memory(results: Results, network: nn.Module) -> None:
    """Count the bytes of a whole BERT before and after packing, and say where they are."""
    packed = copy.deepcopy(network)
    try:
        Pack()(packed)
    except ValueError as error:
        text = bench.one_line(error)
        row = attempt("all", Variant(), "any", lambda: {"error": text})
        results.add("mxint8", "memory", [row])
        return
    before, after = memory(network), memory(packed)
    before["all"], after["all"] = sum(before.values()), sum(after.values())
    rows = []
    for kind, size in before.items():
        sizes = {"bytes_before": size, "bytes_after": after[kind], "threads": None}
        rows.append(attempt(kind, Variant(), "any", sizes.copy))
    results.add("mxint8", "memory", rows)


# ---- results ---------------------------------------------------------------------------------


def show(results: Results, part: Part) -> None:
    """Print the tables of a part, what could not be measured, and what it means."""
    rows = [row for row in results.rows if row["part"] == part]
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        for device in results.devices_of(experiment):
            title = f"{part}: {experiment}, {device}"
            found = results.of(experiment, device)
            if part == "attention":
                show_attention(title, found)
                continue
            columns = {key: FORMATS[key] for key in COLUMNS[experiment]}
            for dtype in dict.fromkeys(row["dtype"] for row in found):
                if "dtype" in columns:
                    console.print(table(title, [on_screen(row) for row in found], columns))
                    break
                shown = [on_screen(row) for row in found if row["dtype"] == dtype]
                console.print(table(f"{title}, {dtype}", shown, columns))
    errors: dict[str, list[str]] = {}
    for row in rows:
        if row["error"] is not None:
            errors.setdefault(row["error"], []).append(f"{row['target']} on {row['device']}")
    for error, where in errors.items():
        names = ", ".join(dict.fromkeys(where))
        print(f"Not measured, {len(where)} x ({names}): {error}")
    explain = {"compile": explain_compile, "mxint8": explain_memory}.get(part)
    if explain is not None:
        console.print(explain(results), highlight=False)


def on_screen(row: Row) -> Row:
    """A row with what a table says in fewer words than the files."""
    how = str(row["variant"]).removeprefix("compiled ").removesuffix(f" {row['dtype']}")
    words: Row = {"run": how, "step_ms": row["median_ms"]}
    if row["compile_ms"] is not None:
        steps = row["break_even_steps"]
        words["break_even"] = "never" if steps is None else f"{steps:,.0f}"
        words["compile_s"] = row["compile_ms"] / 1e3
    return {**row, **words}


def show_attention(title: str, rows: Sequence[Row]) -> None:
    """Times over lengths side by side, and the memory and the error at the greatest length."""
    lengths = sorted({row["tokens"] for row in rows})
    for mask in dict.fromkeys(row["mask"] for row in rows):
        merged: dict[tuple[str, str], dict[str, Any]] = {}
        for row in (row for row in rows if row["mask"] == mask):
            line = merged.setdefault((row["target"], row["dtype"]), {})
            line |= {key: row[key] for key in ("target", "dtype", "peak_mb", "max_relative_error")}
            line[f"{row['tokens']}"] = row["median_ms"]
        columns = {key: FORMATS[key] for key in ("target", "dtype")}
        columns |= {f"{length}": (f"ms {length}", ".2f") for length in lengths}
        columns |= {key: FORMATS[key] for key in ("peak_mb", "max_relative_error")}
        console.print(table(f"{title}, mask: {mask}", list(merged.values()), columns))


def explain_compile(results: Results) -> str:
    """Why the mean of few calls and the median of steady calls differ."""
    lines = []
    steady = {(r["device"], r["target"], r["variant"]): r for r in results.of("steady")}
    few = {(r["device"], r["variant"]): r for r in results.of("few calls")}
    for (device, variant), wrong in few.items():
        eager = few.get((device, str(Variant(dtype=wrong["dtype"]))))
        right = steady.get((device, "BERT", variant))
        if right is None or eager is None or right["compile_ms"] is None:
            continue
        lines.append(
            f"{variant} on {device}: by the mean of the first calls "
            f"{eager['mean_ms'] / wrong['mean_ms']:.3g} times as fast as eager, by the median of "
            f"steady ones {right['speedup_over_eager']:.3g} times. The first call took "
            f"{wrong['first_call_ms']:,.0f} ms, to start the compiler and to compile, which alone "
            f"takes {right['compile_ms']:,.0f} ms; a steady one takes {right['median_ms']:.3g} ms."
        )
    if results.of("lengths"):
        lines.append(
            "Static code is compiled for each length anew. Padding makes fewer lengths, and more "
            "tokens."
        )
    return "\n".join(lines)


def explain_memory(results: Results) -> str:
    """Why a model does not shrink by (32 - 8.25)/32."""
    rows = {row["target"]: row for row in results.of("memory")}
    if not rows:
        return ""
    codes, exponents = (rows[f"packed_{name}"]["bytes_after"] for name in ("codes", "exponents"))
    weights, everything = (rows[kind]["bytes_before"] for kind in ("linear_weights", "all"))
    stay = everything - weights
    saved = everything - rows["all"]["bytes_after"]
    bits, packed = 8 * (codes + exponents) / codes, 1 - (codes + exponents) / weights
    return (
        f"(32 - 8.25)/32 = {(32 - 8.25) / 32:.2%} holds for weights that are packed: "
        f"{weights:,} bytes become {codes:,} of codes and {exponents:,} of exponents, "
        f"{bits:.4g} bits per element, {packed:.2%} less. "
        f"The other {stay:,} of {everything:,} bytes (embeddings, norms, biases, other) stay "
        f"as they are, so the model saves {saved:,} bytes, {saved / everything:.2%}. "
        "Activations come on top, in full precision, while the model runs."
    )


def draw_compile(results: Results) -> None:
    """Bars of the wrong and the right measurement and of the graphs; the mean over n calls."""
    for device in results.devices_of("steady"):
        measured: dict[str, dict[str, float]] = {}
        for row in results.of("few calls", device):
            measured.setdefault("BERT,\nfirst calls", {})[row["variant"]] = row["mean_ms"]
        for experiment, note in (("steady", ""), ("training", ",\ntraining")):
            for row in results.of(experiment, device):
                name = str(row["target"]).replace("(", "\n(") + note
                measured.setdefault(name, {})[row["variant"]] = row["median_ms"]
        results.bars(f"compile {device}", measured, "ms per call", log=True)
        curves = {
            row["variant"]: [
                (n, (row["first_call_ms"] + (n - 1) * row["median_ms"]) / n)
                for n in (10**power for power in range(7))
            ]
            for row in results.of("steady", device)
            if row["target"] == "BERT"
        }
        y = "mean ms, the first call included"
        results.lines(f"compile mean {device}", curves, "calls", y, log=True)
        graphs: dict[str, dict[str, float]] = {}
        for row in results.of("lengths", device):
            name = f"multiples of {row['padded_to']}"
            graphs.setdefault(row["variant"], {})[name] = row["graphs"]
        results.bars(f"compile lengths {device}", graphs, "graphs compiled")


def draw_attention(results: Results) -> None:
    """Lines of time and of memory over lengths."""
    quantities = {"median_ms": "ms", "peak_mb": "peak memory in MB"}
    for experiment, mask in product(("forward", "forward+backward"), ("none", "padding")):
        for device, (key, label) in product(results.devices_of(experiment), quantities.items()):
            curves: dict[str, list[tuple[float, float]]] = {}
            for row in results.of(experiment, device):
                if row["mask"] == mask:
                    name = f"{row['target']} {row['dtype']}"
                    curves.setdefault(name, []).append((row["tokens"], row[key]))
            points = {name: sorted(curve) for name, curve in curves.items()}
            title = f"attention {experiment} {device}, mask {mask}, {key.rpartition('_')[0]}"
            results.lines(title, points, "tokens", label, log=True)


def draw_mxint8(results: Results) -> None:
    """Bars of speed and of memory."""
    for device in results.devices_of("operators"):
        rates: dict[str, dict[str, float]] = {}
        for row in results.of("operators", device):
            rates.setdefault(row["shape"], {})[row["target"]] = row["gb_per_s"]
        results.bars(f"mxint8 operators {device}", rates, "GB/s")
        times: dict[str, dict[str, float]] = {}
        for row in results.of("linear", device):
            name = f"{row['shape']}\nbatch {row['batch']}"
            times.setdefault(name, {})[f"{row['target']} {row['dtype']}"] = row["median_ms"]
        results.bars(f"mxint8 linear {device}", times, "ms per call", log=True)
    memories = {
        name: {row["target"]: row[key] / 1e6 for row in results.of("memory") if row[key]}
        for name, key in (("float32", "bytes_before"), ("packed", "bytes_after"))
    }
    results.bars("mxint8 memory", {k: v for k, v in memories.items() if v}, "10^6 bytes")


def finish(results: Results) -> None:
    """Say what ran where, and how to fill what is missing; fail if there is nothing."""
    console.print("\n[bold]Environment")
    for name, value in results.environment.items():
        console.print(f"  {name:<20} {value}", soft_wrap=True, highlight=False)
    if not torch.cuda.is_available():
        given = shlex.join([*sys.argv[1:], "--devices", "[cuda]"])
        run = f"{results.folder.name}-cuda"
        print(
            "No GPU here: numbers of CUDA devices are missing. On a machine with one, get them by"
        )
        print(f"  python scripts/{HERE.name} {given} --run {shlex.quote(run)}")
    print(f"Tables, figures and TensorBoard curves: {results.folder}")
    # Bytes are counted without a device.
    if all(row["error"] is not None for row in results.rows if row["experiment"] != "memory"):
        print("lab4: nothing could be measured.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        {"model": (NetworkFactory, {"num_classes"})},
        interrupted="what was measured is on disk; the same command measures anew",
    )

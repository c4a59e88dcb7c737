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
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lightning_adls import bench, cli, report, runs
from lightning_adls.bench import Measurement, Rounds, Row, Variant
from lightning_adls.bench.failures import one_line, usable
from lightning_adls.bench.inputs import placed
from lightning_adls.bench.steps import ForwardStep
from lightning_adls.environment import environment
from lightning_adls.formats import MXInt, parse
from lightning_adls.kernels import BLOCK_SIZE, dequantize, dequantize_reference, quantize
from lightning_adls.layers import LayerFormats, quantized
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.models import bert, check_length
from lightning_adls.transforms.pack import Pack, memory
from lightning_adls.transforms.quantize import Quantize

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab4")
Part = Literal["compile", "attention", "mxint8"]
PARTS: tuple[Part, ...] = ("compile", "attention", "mxint8")
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

# Beside those of a Measurement; of the part that is named first in the comment.
EXTRA = (
    "mean_ms",  # compile: of the few first calls, compilation included
    "padded_to",  # compile: lengths are padded to multiples of it
    "padding",  # compile: share of the tokens that are padding
    "first_pass_ms",  # compile: over all lengths, compilation included
    "second_pass_ms",  # compile: over the same lengths again
    "mask",  # attention: none, or padding as BERT has it
    "shape",  # mxint8: of the weight
    "moved_bytes",  # mxint8: that must be read and written
    "gb_per_s",  # mxint8: those in 10^9 bytes per second
    "bytes_before",  # mxint8: of the model in float32
    "bytes_after",  # mxint8: of the packed model
)
KEYS = ("part", "experiment", *Measurement.__dataclass_fields__, *EXTRA)
# Header and format of each column on the screen.
FORMATS = {
    "target": ("target", ""),
    "variant": ("variant", ""),
    "dtype": ("dtype", ""),
    "mask": ("mask", ""),
    "shape": ("weight", ""),
    "batch": ("batch", "d"),
    "tokens": ("tokens", "d"),
    "padded_to": ("multiple", "d"),
    "padding": ("padding", ".0%"),
    "graphs": ("graphs", "d"),
    "first_call_ms": ("1st ms", ".0f"),
    "mean_ms": ("mean ms", ".1f"),
    "compile_ms": ("compile", ".0f"),
    "median_ms": ("ms", ".3f"),
    "first_pass_ms": ("1st ms", ".0f"),
    "second_pass_ms": ("2nd ms", ".1f"),
    "peak_mb": ("peak MB", ".1f"),
    "max_relative_error": ("error", ".0e"),
    "speedup_over_eager": ("speedup", ".2f"),
    "moved_bytes": ("bytes", ",d"),
    "gb_per_s": ("GB/s", ".1f"),
    "bytes_before": ("float32", ",d"),
    "bytes_after": ("packed", ",d"),
}
_ATTENTION = ("target", "dtype", "mask", "tokens", "median_ms", "peak_mb")
# For each experiment, what its table on the screen shows; the files hold all KEYS.
COLUMNS: dict[str, tuple[str, ...]] = {
    "few calls": ("variant", "first_call_ms", "mean_ms"),
    "steady": ("target", "variant", "compile_ms", "median_ms", "speedup_over_eager"),
    "lengths": ("variant", "padded_to", "graphs", "padding", "first_pass_ms", "second_pass_ms"),
    "forward": (*_ATTENTION, "max_relative_error"),
    "forward+backward": (*_ATTENTION, "max_relative_error"),
    "operators": ("target", "shape", "median_ms", "moved_bytes", "gb_per_s"),
    "linear": ("target", "dtype", "shape", "batch", "median_ms", "moved_bytes", "gb_per_s"),
    "memory": ("target", "bytes_before", "bytes_after"),
}
console = Console()


@dataclass(frozen=True)
class Compiling:
    """What is compiled.

    Args:
        backends: Of ``torch.compile``. Changing lengths are measured with the first.
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
            raise ValueError(f"{who}: {name}={value} is empty; give at least one.")
        for entry in value if isinstance(value, list) else [value]:
            for size in entry if isinstance(entry, tuple) else [entry]:
                if isinstance(size, int) and size < 1:
                    raise ValueError(f"{who}: {name}={value} has a number below 1.")


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
        dtypes: Of attention and of linear layers: ``float32``, ``bfloat16``, ``float16``.
        rounds: How often everything is called.
        seed: Of weights and inputs.
        run: Name of the folder in lightning_logs/lab4.
    """
    folder = LOGS / run
    with cli.refusing():
        if not (parts and devices and dtypes):
            raise ValueError("lab4: give at least one of parts, of devices and of dtypes.")
        variants = [Variant(dtype=dtype) for dtype in dict.fromkeys(dtypes)]
        torch.manual_seed(seed)
        network = model(num_classes=2).eval()
        if "compile" in parts:
            check_length(network, max(compiling.tokens, *map(padder(compiling), compiling.lengths)))
        results = Results(folder)
    (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
    work: dict[Part, Callable[[str], None]] = {
        "compile": partial(measure_compile, results, network, compiling, rounds),
        "attention": partial(measure_attention, results, attention, variants, rounds),
        "mxint8": partial(measure_mxint8, results, network, mxint8, variants, rounds),
    }
    for part in (part for part in PARTS if part in parts):
        for device in dict.fromkeys(devices):
            console.print(f"{part} on {device} ...")
            select(device)
            work[part](device)
        if part == "mxint8":
            measure_memory(results, network)
        show(results, part)
        draw(results, part)
    finish(results, devices)


def padder(settings: Compiling) -> Callable[[int], int]:
    """Maps a length to the longest that it is padded to."""
    return lambda length: max(padded(length, multiple) for multiple in settings.multiples)


def select(device: str) -> None:
    """Make a CUDA device the current one, which is the one that is waited for."""
    try:
        place = usable(device)
    except ValueError:
        return  # its rows will say so
    if place.type == "cuda":
        torch.cuda.set_device(place)


class Results:
    """The rows found so far, written to disk with every addition.

    Args:
        folder: Where. What an earlier run of the same name has left there is removed.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.environment = environment()
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._write()

    def add(self, part: Part, experiment: str, rows: Iterable[Row], **shared: Any) -> None:
        """Add rows, and what they share under the keys of ``EXTRA``."""
        for row in rows:
            known = {"part": part, "experiment": experiment, **row, **shared}
            assert known.keys() <= set(KEYS), known.keys() - set(KEYS)
            self.rows.append({key: known.get(key) for key in KEYS})
        self._write()

    def of(self, experiment: str) -> list[Row]:
        """The rows of an experiment that could be measured."""
        return [r for r in self.rows if r["experiment"] == experiment and r["error"] is None]

    def _write(self) -> None:
        report.write_csv(self.folder / "results.csv", self.rows)
        summary = {"environment": self.environment, "results": self.rows}
        report.write_json(self.folder / "summary.json", summary)


def attempt(target: str, variant: Variant, device: str, work: Callable[[], Row]) -> Row:
    """A row of what ``work`` finds, or of why it fails."""
    row = Measurement(target, str(variant), device, variant.dtype, False, torch.get_num_threads())
    try:
        return {**asdict(row), **work()}
    except Exception as error:  # the other rows are still to be measured
        return {**asdict(row), "error": one_line(error)}


# ---- compile ---------------------------------------------------------------------------------


def measure_compile(
    results: Results, network: nn.Module, settings: Compiling, rounds: Rounds, device: str
) -> None:
    """Few calls, steady calls and changing lengths."""
    variants = [Variant(), *map(Variant, dict.fromkeys(settings.backends))]
    ids = bench.token_ids(settings.batch, settings.tokens, vocab_size=vocabulary(network))
    berts: dict[str, nn.Module] = {"BERT": network}
    for text in settings.formats:
        berts[text] = copy.deepcopy(network)
        Quantize({"*": text})(berts[text])
    for variant in variants:
        row = attempt(
            *("BERT", variant, device),
            partial(first_calls, network, ids, variant, device, settings.few),
        )
        results.add("compile", "few calls", [row], batch=settings.batch, tokens=settings.tokens)
    rows = bench.measure(berts, ids, variants, device=device, rounds=rounds)
    results.add("compile", "steady", rows)
    measure_resnet(results, settings, variants, rounds, device)
    for multiple in settings.multiples:
        for dynamic in (False, None, True):
            variant = Variant(settings.backends[0], dynamic=dynamic)
            row = attempt(
                *("BERT", variant, device),
                partial(over_lengths, network, variant, settings, multiple, device),
            )
            results.add("compile", "lengths", [row], batch=settings.batch, padded_to=multiple)


def vocabulary(network: nn.Module) -> int:
    """Number of tokens that a BERT knows."""
    return int(network.config.vocab_size)  # type: ignore[union-attr,arg-type]


def first_calls(
    network: nn.Module, inputs: Mapping[str, Tensor], variant: Variant, device: str, few: int
) -> Row:
    """The measurement that misleads: the mean of a few calls, the first of which compiles."""
    variant.check()
    torch.compiler.reset()
    step = ForwardStep(network, variant, inputs, usable(device))
    with bench.cold_cache():
        times_ms = bench.time_ms(step, Rounds(timed=few, warmup=0))
    return {"first_call_ms": times_ms[0].item(), "mean_ms": times_ms.mean().item()}


def measure_resnet(
    results: Results, settings: Compiling, variants: list[Variant], rounds: Rounds, device: str
) -> None:
    """ResNet-18 as it is in torchvision, with random weights."""
    try:
        from torchvision.models import resnet18  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        error = "torchvision is not installed; `pip install torchvision`"
        row = attempt("ResNet-18", Variant(), device, lambda: {"error": error})
        results.add("compile", "steady", [row])
        return
    images = torch.randn(settings.batch, 3, settings.image, settings.image)
    rows = bench.measure({"ResNet-18": resnet18()}, images, variants, device=device, rounds=rounds)
    results.add("compile", "steady", rows)


def padded(length: int, multiple: int) -> int:
    """The smallest multiple that is no less than ``length``."""
    return -(-length // multiple) * multiple


def over_lengths(
    network: nn.Module, variant: Variant, settings: Compiling, multiple: int, device: str
) -> Row:
    """Call one compiled model with all lengths, twice, and count what is compiled."""
    variant.check()
    place = usable(device)
    torch.compiler.reset()
    call = variant.compiled(copy.deepcopy(network).to(place).eval())
    calls = []
    for length in settings.lengths:
        tokens = padded(length, multiple)
        ids = bench.token_ids(settings.batch, tokens, vocab_size=vocabulary(network))
        ids["attention_mask"][:, length:] = 0
        calls.append(partial(call, **dict(placed(ids, place, torch.float32))))

    def once_each() -> None:
        with torch.no_grad():
            for each in calls:
                each()

    passes_ms = torch.empty(0)

    def two_passes() -> None:
        nonlocal passes_ms
        passes_ms = bench.time_ms(once_each, Rounds(timed=2, warmup=0))

    with bench.cold_cache():
        found = bench.count_graphs(two_passes)
    total = sum(padded(length, multiple) for length in settings.lengths)
    return {
        "graphs": found.graphs,
        "graph_breaks": len(found.breaks),
        "first_pass_ms": passes_ms[0].item(),
        "second_pass_ms": passes_ms[1].item(),
        "padding": 1 - sum(settings.lengths) / total,
    }


# ---- attention -------------------------------------------------------------------------------


def measure_attention(
    results: Results, settings: Attention, variants: list[Variant], rounds: Rounds, device: str
) -> None:
    """Naive and fused attention over lengths, forward and with gradients, with and without mask."""
    attends: dict[str, Attend] = {"naive": naive, "sdpa": scaled_dot_product_attention}
    attends |= {f"sdpa {name}": partial(fused, name) for name in settings.backends}
    gradients = {name: partial(with_gradients, attend) for name, attend in attends.items()}
    for tokens in settings.lengths:
        query_key_value = torch.randn(3, settings.batch, settings.heads, tokens, settings.head_size)
        for mask, keep in (("none", None), ("padding", padding_mask(settings.batch, tokens))):
            inputs = [*query_key_value, keep]
            for experiment, targets in (("forward", attends), ("forward+backward", gradients)):
                rows = bench.measure(targets, inputs, variants, device=device, rounds=rounds)
                for row in rows:
                    # To the formula in float32, where `measure` knows only the target itself.
                    row["max_relative_error"] = error_of(row, targets, inputs)
                results.add("attention", experiment, rows, tokens=tokens, mask=mask)


def naive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by its formula, the whole matrix of scores in memory.

    Args:
        query: Shape ``(batch, heads, tokens, head_size)``, as ``key`` and ``value``.
        key: Of the same shape.
        value: Of the same shape.
        mask: bool, ``(batch, 1, tokens, tokens)``, True for keys that count, or None.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ value


def fused(backend: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """torch's attention by one backend and no other.

    Raises:
        ValueError: If torch knows no such backend.
        RuntimeError: If the backend cannot do it, on this device, in this data type, with a mask.
    """
    known = [name.lower() for name in SDPBackend.__members__ if name != "ERROR"]
    if backend not in known:
        raise ValueError(
            f"lab4: attention.backends={backend!r} is unknown; torch has {', '.join(known)}."
        )
    with sdpa_kernel(SDPBackend.__members__[backend.upper()]):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def with_gradients(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """Forward and backward: the gradients of queries, keys and values."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        output = attend(leaves[0], leaves[1], leaves[2], mask)
        return torch.autograd.grad(output, leaves, torch.ones_like(output))


def padding_mask(batch: int, tokens: int) -> Tensor:
    """As BERT has it: samples of half the length and more, ``(batch, 1, tokens, tokens)``."""
    lengths = torch.linspace((tokens + 1) // 2, tokens, batch).long()
    keep = torch.arange(tokens) < lengths[:, None]
    return keep[:, None, None, :].expand(batch, 1, tokens, tokens)


@torch.no_grad()
def error_of(
    row: Row, targets: Mapping[str, Callable[..., Any]], inputs: list[Tensor | None]
) -> float | None:
    """Largest relative error to the naive formula in float32, of the output or of the gradients."""
    if row["error"] is not None:
        return None
    place = usable(row["device"])
    try:
        expected = targets["naive"](*placed(inputs, place, torch.float32))
        found = targets[row["target"]](*placed(inputs, place, bench.DTYPES[row["dtype"]]))
    except RuntimeError:  # out of memory: the formula needs more than a kernel that was measured
        return None
    if isinstance(found, Tensor):
        return bench.relative_error(found, expected)
    return max(map(bench.relative_error, found, expected))


# ---- mxint8 ----------------------------------------------------------------------------------


def measure_mxint8(
    results: Results,
    network: nn.Module,
    settings: Packing,
    variants: list[Variant],
    rounds: Rounds,
    device: str,
) -> None:
    """Quantise, unpack, multiply; each against the bytes that it must move."""
    for shape in settings.shapes:
        measure_operators(results, shape, rounds, device)
        plain = nn.Linear(shape[1], shape[0])
        layers = {
            "linear": plain,
            "rounded": quantized(plain, LayerFormats(weight=MXInt(width=8))),
            "packed": PackedLinear.from_linear(plain),
        }
        for batch in settings.batches:
            x = torch.randn(batch, shape[1])
            rows = bench.measure(layers, x, variants, device=device, rounds=rounds)
            for row in rows:
                size = bench.DTYPES[row["dtype"]].itemsize
                weight = (
                    packed_bytes(shape) if row["target"] == "packed" else math.prod(shape) * size
                )
                moved = weight + (batch * sum(shape) + shape[0]) * size
                results.add("mxint8", "linear", [row], shape=name_of(shape), **speed(row, moved))


def measure_operators(
    results: Results, shape: tuple[int, int], rounds: Rounds, device: str
) -> None:
    """Packing and unpacking, beside copying the weight."""
    weight = torch.randn(shape)
    full, packed = weight.nbytes, packed_bytes(shape)

    def unpack(weight: Tensor, codes: Tensor, exponents: Tensor) -> Tensor:
        return dequantize(codes, exponents)

    def unpack_half(weight: Tensor, codes: Tensor, exponents: Tensor) -> Tensor:
        return dequantize(codes, exponents, torch.bfloat16)

    def unpack_slowly(weight: Tensor, codes: Tensor, exponents: Tensor) -> Tensor:
        return dequantize_reference(codes, exponents, torch.float32)

    operators: dict[str, tuple[Callable[..., Any], int]] = {
        "copy": (lambda weight, codes, exponents: weight.clone(), 2 * full),
        "quantize": (lambda weight, codes, exponents: quantize(weight), full + packed),
        "dequantize": (unpack, packed + full),
        "dequantize to bfloat16": (unpack_half, packed + full // 2),
        "dequantize by definition": (unpack_slowly, packed + full),
    }
    targets = {name: function for name, (function, _) in operators.items()}
    inputs = (weight, *quantize(weight))
    for row in bench.measure(targets, inputs, [Variant()], device=device, rounds=rounds):
        moved = operators[row["target"]][1]
        results.add("mxint8", "operators", [row], shape=name_of(shape), **speed(row, moved))


def name_of(shape: Sequence[int]) -> str:
    """As it is written on the screen, such as ``3072x768``."""
    return "x".join(map(str, shape))


def packed_bytes(shape: Sequence[int]) -> int:
    """Of the codes and exponents of a weight."""
    rows, columns = shape
    return rows * (columns + -(-columns // BLOCK_SIZE))


def speed(row: Row, moved_bytes: int) -> dict[str, float | None]:
    """The bytes that must be moved, and how fast they were."""
    median_ms = row["median_ms"]
    rate = None if median_ms is None else moved_bytes / median_ms / 1e6
    return {"moved_bytes": moved_bytes, "gb_per_s": rate}


def measure_memory(results: Results, network: nn.Module) -> None:
    """Count the bytes of a whole BERT before and after packing, and say where they are."""
    packed = copy.deepcopy(network)
    try:
        Pack()(packed)
    except ValueError as error:
        text = one_line(error)
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
        f"as they are, so the model saves {saved:,} bytes, {saved / everything:.2%}."
    )


# ---- results ---------------------------------------------------------------------------------


def show(results: Results, part: Part) -> None:
    """Print the tables of a part, what could not be measured, and what it means."""
    rows = [row for row in results.rows if row["part"] == part]
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        columns = {key: FORMATS[key] for key in COLUMNS[experiment]}
        for device in devices_of(results, experiment):
            found = [row for row in results.of(experiment) if row["device"] == device]
            console.print(runs.table(f"{part}: {experiment}, {device}", found, columns))
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


def explain_compile(results: Results) -> str:
    """Why the mean of few calls and the median of steady calls differ."""
    lines = []
    steady = {(r["device"], r["target"], r["variant"]): r for r in results.of("steady")}
    few = {(r["device"], "BERT", r["variant"]): r for r in results.of("few calls")}
    for key, wrong in few.items():
        eager = few.get((key[0], "BERT", str(Variant())))
        right = steady.get(key)
        if right is None or eager is None or right["compile_ms"] is None:
            continue
        lines.append(
            f"{wrong['variant']} on {key[0]}: by the mean of the first calls "
            f"{eager['mean_ms'] / wrong['mean_ms']:.3g} times as fast as eager, by the median of "
            f"steady ones {right['speedup_over_eager']:.3g} times. The first call took "
            f"{wrong['first_call_ms']:.0f} ms, to start the compiler and to compile, which alone "
            f"takes {right['compile_ms']:.0f} ms; a steady one takes {right['median_ms']:.3g} ms."
        )
    if results.of("lengths"):
        limit = torch._dynamo.config.recompile_limit
        lines.append(
            "Static code is compiled for each length anew. Padding makes fewer lengths, and more "
            f"tokens. Beyond {limit} graphs of a function torch runs it eagerly."
        )
    return "\n".join(lines)


def draw(results: Results, part: Part) -> None:
    """Draw the figures of a part and log them for TensorBoard."""
    {"compile": draw_compile, "attention": draw_attention, "mxint8": draw_mxint8}[part](results)


def draw_compile(results: Results) -> None:
    """Bars of the wrong and the right measurement, of the graphs, and the mean over n calls."""
    for device in devices_of(results, "steady"):
        steady = [r for r in results.of("steady") if r["device"] == device]
        few = [r for r in results.of("few calls") if r["device"] == device]
        measured: dict[str, dict[str, float]] = {}
        for row in few:
            measured.setdefault("BERT, first calls", {})[row["variant"]] = row["mean_ms"]
        for row in steady:
            measured.setdefault(f"{row['target']}, steady", {})[row["variant"]] = row["median_ms"]
        bars(results, f"compile {device}", measured, "ms per call")
        curves = {
            r["variant"]: [
                (n, (r["first_call_ms"] + (n - 1) * r["median_ms"]) / n)
                for n in (1, 2, 5, 10, 20, 50, 100)
            ]
            for r in steady
            if r["target"] == "BERT"
        }
        lines(
            results, f"compile mean {device}", curves, "calls", "mean ms, the first call included"
        )
        graphs: dict[str, dict[str, float]] = {}
        for row in (r for r in results.of("lengths") if r["device"] == device):
            name = f"multiples of {row['padded_to']}"
            graphs.setdefault(row["variant"], {})[name] = row["graphs"]
        bars(results, f"compile lengths {device}", graphs, "graphs compiled")


def draw_attention(results: Results) -> None:
    """Lines of time and of memory over lengths."""
    quantities = {"median_ms": "ms", "peak_mb": "peak memory in MB"}
    for experiment in ("forward", "forward+backward"):
        for device in devices_of(results, experiment):
            for mask in ("none", "padding"):
                for key, label in quantities.items():
                    curves: dict[str, list[tuple[float, float]]] = {}
                    for row in results.of(experiment):
                        if (row["device"], row["mask"]) == (device, mask):
                            name = f"{row['target']} {row['dtype']}"
                            curves.setdefault(name, []).append((row["tokens"], row[key]))
                    points = {name: sorted(curve) for name, curve in curves.items()}
                    title = f"attention {experiment} {device} mask {mask} {key}"
                    lines(results, title, points, "tokens", label)


def draw_mxint8(results: Results) -> None:
    """Bars of speed and of memory."""
    for device in devices_of(results, "operators"):
        rates: dict[str, dict[str, float]] = {}
        for row in results.of("operators"):
            if row["device"] == device:
                rates.setdefault(row["shape"], {})[row["target"]] = row["gb_per_s"]
        bars(results, f"mxint8 operators {device}", rates, "GB/s")
        times: dict[str, dict[str, float]] = {}
        for row in results.of("linear"):
            if row["device"] == device:
                name = f"{row['shape']}\nbatch {row['batch']}"
                times.setdefault(name, {})[f"{row['target']} {row['dtype']}"] = row["median_ms"]
        bars(results, f"mxint8 linear {device}", times, "ms per call")
    memories = {
        name: {row["target"]: row[key] / 1e6 for row in results.of("memory") if row[key]}
        for name, key in (("float32", "bytes_before"), ("packed", "bytes_after"))
    }
    bars(results, "mxint8 memory", memories, "10^6 bytes")


def devices_of(results: Results, experiment: str) -> list[str]:
    """Devices on which something of an experiment could be measured."""
    return list(dict.fromkeys(row["device"] for row in results.of(experiment)))


def file_name(title: str) -> str:
    """Of a figure, and of its TensorBoard run."""
    return title.replace(" ", "_").replace("+", "_").replace(":", "")


def bars(results: Results, title: str, groups: Mapping[str, Mapping[str, float]], y: str) -> None:
    """Draw bars, and log each as a point of TensorBoard."""
    if not groups:
        return
    name = file_name(title)
    report.draw_bars(results.folder / f"{name}.png", groups, title=title, y_label=y)
    points: dict[str, list[tuple[float, float]]] = {
        f"{group} {bar}".replace("\n", " "): [(0, height)]
        for group, members in groups.items()
        for bar, height in members.items()
    }
    report.log_curves(results.folder / "tensorboard" / name, title, points)


def lines(results: Results, title: str, curves: Mapping[str, report.Curve], x: str, y: str) -> None:
    """Draw lines, and log each as a curve of TensorBoard."""
    if not curves:
        return
    name = file_name(title)
    path = results.folder / f"{name}.png"
    report.draw_lines(path, curves, levels={}, title=title, x_label=x, y_label=y)
    report.log_curves(results.folder / "tensorboard" / name, title, curves)


def finish(results: Results, devices: Sequence[str]) -> None:
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
        {"model": (bert, {"num_classes"})},
    )

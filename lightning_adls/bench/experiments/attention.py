"""The part `attention`: the textbook's formula beside torch's fused kernels, over lengths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_adls.bench.experiments.part import Table, check_sizes
from lightning_adls.bench.experiments.scaled_dot_product import (
    Attend,
    fused,
    naive,
    padding_mask,
    with_gradients,
)
from lightning_adls.bench.instruments.correctness import relative_error
from lightning_adls.bench.instruments.timing import Rounds
from lightning_adls.bench.measure import measure
from lightning_adls.bench.records import Record
from lightning_adls.bench.results import Results, StoredResults
from lightning_adls.bench.workloads.devices import usable
from lightning_adls.bench.workloads.inputs import placed
from lightning_adls.bench.workloads.variants import DTYPES, Variant

EXPERIMENTS = ("forward", "forward+backward")


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

    name: ClassVar[str] = "attention"
    extra_keys: ClassVar[tuple[str, ...]] = ("mask",)  # none, or padding as BERT has it

    backends: list[str]
    batch: int
    heads: int
    head_size: int
    lengths: list[int]

    def __post_init__(self) -> None:
        check_sizes(self)

    def measure(
        self, results: Results, variants: Sequence[Variant], rounds: Rounds, device: str
    ) -> None:
        """Naive and fused over lengths, forward and with gradients, with and without mask."""
        attends: dict[str, Attend] = {"naive": naive, "sdpa": partial(fused, None)}
        attends |= {f"sdpa {name}": partial(fused, name) for name in self.backends}
        trained = {name: partial(with_gradients, attend) for name, attend in attends.items()}
        kinds: list[Mapping[str, Callable[..., Any]]] = [attends, trained]
        for tokens in self.lengths:
            query_key_value = torch.randn(3, self.batch, self.heads, tokens, self.head_size)
            for mask, keep in (("none", None), ("padding", padding_mask(self.batch, tokens))):
                inputs = [*query_key_value, keep]
                for experiment, targets in zip(EXPERIMENTS, kinds, strict=True):
                    records = measure(targets, inputs, variants, device=device, rounds=rounds)
                    for record in records:
                        # To the formula in float32, where `measure` knows only the target itself.
                        record["max_relative_error"] = _error(record, targets, inputs)
                    results.add(self.name, experiment, records, tokens=tokens, mask=mask)

    def tables(self, results: StoredResults) -> Iterator[Table]:
        """Times over lengths side by side, memory and error at the greatest length."""
        for experiment in EXPERIMENTS:
            for device in results.devices_of(experiment):
                records = results.of(experiment, device)
                for mask in dict.fromkeys(record["mask"] for record in records):
                    title = f"{self.name}: {experiment}, {device}, mask: {mask}"
                    yield _over_lengths(title, [r for r in records if r["mask"] == mask])

    def explain(self, results: StoredResults) -> str:
        """Nothing: the tables say it."""
        return ""

    def draw(self, results: StoredResults) -> None:
        """Lines of time and of memory over lengths."""
        quantities = {
            "median_ms": ("median time", "ms"),
            "peak_mb": ("peak memory", "peak memory in MB"),
        }
        for experiment, mask in product(EXPERIMENTS, ("none", "padding")):
            for device, (key, (what, label)) in product(
                results.devices_of(experiment), quantities.items()
            ):
                curves: dict[str, list[tuple[float, float]]] = {}
                for record in results.of(experiment, device):
                    if record["mask"] == mask:
                        name = f"{record['target']} {record['dtype']}"
                        curves.setdefault(name, []).append((record["tokens"], record[key]))
                # Of one data type together: many curves are drawn in several panels.
                types = list(dict.fromkeys(name.rpartition(" ")[2] for name in curves))
                ranked = sorted(curves, key=lambda name: types.index(name.rpartition(" ")[2]))
                points = {name: sorted(curves[name]) for name in ranked}
                name = f"attention {experiment} {device}, mask {mask}, {key.rpartition('_')[0]}"
                masked = "no mask" if mask == "none" else f"{mask} mask"
                title = f"Attention, {experiment}, on {device}, {masked}: {what}"
                results.lines(name, title, points, "tokens", label, log=True)


@torch.no_grad()
def _error(
    record: Record, targets: Mapping[str, Callable[..., Any]], inputs: Sequence[Tensor | None]
) -> float | None:
    """Largest relative error to the naive formula in float32, of the output or of the gradients."""
    if record["error"] is not None:
        return None
    place = usable(record["device"])
    try:
        expected = targets["naive"](*placed(inputs, place, torch.float32))
        found = targets[record["target"]](*placed(inputs, place, DTYPES[record["dtype"]]))
    except RuntimeError:  # out of memory: the formula needs more than a kernel that was measured
        return None
    if isinstance(found, Tensor):
        return relative_error(found, expected)
    return max(map(relative_error, found, expected))


def _over_lengths(title: str, records: Sequence[Record]) -> Table:
    merged: dict[tuple[str, str], Record] = {}
    for record in records:
        line = merged.setdefault((record["target"], record["dtype"]), {})
        line |= {key: record[key] for key in ("target", "dtype", "peak_mb", "max_relative_error")}
        line[f"{record['tokens']}"] = record["median_ms"]
    lengths = sorted({record["tokens"] for record in records})
    columns = {
        "target": ("target", ""),
        "dtype": ("dtype", ""),
        **{f"{length}": (f"ms {length}", ".2f") for length in lengths},
        "peak_mb": ("peak MB", ".1f"),
        "max_relative_error": ("error", ".0e"),
    }
    return Table(title, list(merged.values()), columns)

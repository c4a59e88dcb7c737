"""The part `mxint8`: packing, unpacking and multiplying weights, and the bytes of a model."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lightning_adls.bench.experiments.mxint8 import (
    gb_per_s,
    linear_bytes,
    linear_targets,
    operators,
)
from lightning_adls.bench.experiments.part import Columns, Table, check_sizes, tables_of
from lightning_adls.bench.failures import one_line
from lightning_adls.bench.instruments.timing import Rounds
from lightning_adls.bench.measure import measure
from lightning_adls.bench.records import Record
from lightning_adls.bench.results import Results, StoredResults, attempt
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.errors import InputValueError
from lightning_adls.kernels import quantize
from lightning_adls.transforms import Pack, memory

COLUMNS: dict[str, Columns] = {
    "operators": {
        "target": ("target", ""),
        "shape": ("weight", ""),
        "median_ms": ("ms", ".3f"),
        "moved_bytes": ("bytes", ",d"),
        "gb_per_s": ("GB/s", ".1f"),
    },
    "linear": {
        "target": ("target", ""),
        "dtype": ("dtype", ""),
        "shape": ("weight", ""),
        "batch": ("batch", "d"),
        "median_ms": ("ms", ".3f"),
        "moved_bytes": ("bytes", ",d"),
        "gb_per_s": ("GB/s", ".1f"),
    },
    "memory": {
        "target": ("target", ""),
        "bytes_before": ("float32", ",d"),
        "bytes_after": ("packed", ",d"),
    },
}


@dataclass(frozen=True)
class Packing:
    """Which weights are packed.

    Args:
        shapes: Of weights, ``[out_features, in_features]``.
        batches: Rows that the linear layers multiply.

    Raises:
        ValueError: If a number is below 1, or there is nothing to measure.
    """

    name: ClassVar[str] = "mxint8"
    extra_keys: ClassVar[tuple[str, ...]] = (
        "shape",  # of the weight
        "moved_bytes",  # that must be read and written
        "gb_per_s",  # those in 10^9 bytes per second
        "bytes_before",  # of the model in float32
        "bytes_after",  # of the packed model
    )

    shapes: list[tuple[int, int]]
    batches: list[int]

    def __post_init__(self) -> None:
        check_sizes(self)

    def measure(
        self, results: Results, variants: Sequence[Variant], rounds: Rounds, device: str
    ) -> None:
        """Quantise, unpack, multiply; each against the bytes that it must move."""
        for shape in self.shapes:
            weight = torch.randn(shape)
            known = operators(shape)
            targets = {operator: function for operator, (function, _) in known.items()}
            inputs = (weight, *quantize(weight))
            for record in measure(targets, inputs, [Variant()], device=device, rounds=rounds):
                self._add(results, "operators", record, known[record["target"]][1], shape)
            layers = linear_targets(shape)
            for batch in self.batches:
                x = torch.randn(batch, shape[1])
                for record in measure(layers, x, variants, device=device, rounds=rounds):
                    self._add(results, "linear", record, linear_bytes(record, shape), shape)

    def _add(
        self, results: Results, experiment: str, record: Record, moved: int, shape: tuple[int, int]
    ) -> None:
        speed = {"moved_bytes": moved, "gb_per_s": gb_per_s(record, moved)}
        results.add(self.name, experiment, [record], shape="x".join(map(str, shape)), **speed)

    def count_bytes(self, results: Results, network: nn.Module) -> None:
        """Count the bytes of a whole network before and after packing, and say where they are."""
        packed = copy.deepcopy(network)
        try:
            Pack()(packed)
        except InputValueError as error:
            failed = {"error": one_line(error)}
            record = attempt("all", Variant(), "any", lambda: failed)
            results.add(self.name, "memory", [record])
            return
        before, after = memory(network), memory(packed)
        before["all"], after["all"] = sum(before.values()), sum(after.values())
        records = []
        for kind, size in before.items():
            sizes = {
                "bytes_before": size,
                "bytes_after": after[kind],
                "threads": None,
                "waiting": None,
            }
            records.append(attempt(kind, Variant(), "any", sizes.copy))
        results.add(self.name, "memory", records)

    def tables(self, results: StoredResults) -> Iterator[Table]:
        """Times with the bytes moved, and the bytes of the model."""
        return tables_of(results, self.name, COLUMNS)

    def explain(self, results: StoredResults) -> str:
        """Why a model does not shrink by (32 - 8.25)/32."""
        found = {record["target"]: record for record in results.of("memory")}
        if not found:
            return ""
        codes, exponents = (found[f"packed_{it}"]["bytes_after"] for it in ("codes", "exponents"))
        weights, everything = (found[kind]["bytes_before"] for kind in ("linear_weights", "all"))
        stay = everything - weights
        saved = everything - found["all"]["bytes_after"]
        bits, packed = 8 * (codes + exponents) / codes, 1 - (codes + exponents) / weights
        return (
            f"(32 - 8.25)/32 = {(32 - 8.25) / 32:.2%} holds for weights that are packed: "
            f"{weights:,} bytes become {codes:,} of codes and {exponents:,} of exponents, "
            f"{bits:.4g} bits per element, {packed:.2%} less. "
            f"The other {stay:,} of {everything:,} bytes (embeddings, norms, biases, other) stay "
            f"as they are, so the model saves {saved:,} bytes, {saved / everything:.2%}. "
            "Activations come on top, in full precision, while the model runs."
        )

    def draw(self, results: StoredResults) -> None:
        """Bars of speed and of memory."""
        for device in results.devices_of("operators"):
            rates: dict[str, dict[str, float]] = {}
            for record in results.of("operators", device):
                rates.setdefault(record["shape"], {})[record["target"]] = record["gb_per_s"]
            title = f"Packing weights into MXINT8 and back on {device}: bytes that are moved"
            results.bars(f"mxint8 operators {device}", title, rates, "GB/s")
            times: dict[str, dict[str, float]] = {}
            for record in results.of("linear", device):
                bar = f"{record['target']} {record['dtype']}"
                group = f"{record['shape']}\nbatch {record['batch']}"
                times.setdefault(group, {})[bar] = record["median_ms"]
            title = f"A linear layer with plain, rounded and packed weights on {device}"
            results.bars(f"mxint8 linear {device}", title, times, "ms per call", log=True)
        memories = {
            name: {r["target"].replace("_", " "): r[key] / 1e6 for r in results.of("memory")}
            for name, key in (("float32", "bytes_before"), ("packed", "bytes_after"))
        }
        title = "What a model takes in memory, in float32 and with packed MXINT8 weights"
        groups = {name: bars for name, bars in memories.items() if bars}
        results.bars("mxint8 memory", title, groups, "MB")

"""Measurements of models: speed, memory, what ``torch.compile`` does, and whether it is right."""

from lightning_adls.bench.failures import one_line
from lightning_adls.bench.first_calls import first_calls, over_sizes
from lightning_adls.bench.instruments.correctness import relative_error
from lightning_adls.bench.instruments.graphs import Graphs, count_graphs
from lightning_adls.bench.instruments.memory import peak_bytes
from lightning_adls.bench.instruments.timing import Rounds, Spread, alternate, break_even, time_ms
from lightning_adls.bench.measure import measure
from lightning_adls.bench.records import Measurement, Record
from lightning_adls.bench.results import Results, StoredResults, attempt
from lightning_adls.bench.speedup import Speedup, speedup
from lightning_adls.bench.sweep import sweep
from lightning_adls.bench.workloads.compiler_state import cold_cache
from lightning_adls.bench.workloads.devices import usable
from lightning_adls.bench.workloads.inputs import placed, token_ids
from lightning_adls.bench.workloads.steps import mean_square
from lightning_adls.bench.workloads.variants import DTYPES, Variant

__all__ = [
    "DTYPES",
    "Graphs",
    "Measurement",
    "Record",
    "Results",
    "Rounds",
    "Speedup",
    "Spread",
    "StoredResults",
    "Variant",
    "alternate",
    "attempt",
    "break_even",
    "cold_cache",
    "count_graphs",
    "first_calls",
    "mean_square",
    "measure",
    "one_line",
    "over_sizes",
    "peak_bytes",
    "placed",
    "relative_error",
    "speedup",
    "sweep",
    "time_ms",
    "token_ids",
    "usable",
]

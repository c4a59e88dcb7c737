"""Measurements of models: speed, memory, what ``torch.compile`` does, and whether it is right."""

from lightning_adls.bench.compiling import cold_cache
from lightning_adls.bench.correctness import relative_error
from lightning_adls.bench.graphs import Graphs, count_graphs
from lightning_adls.bench.inputs import token_ids
from lightning_adls.bench.measure import measure
from lightning_adls.bench.memory import peak_bytes
from lightning_adls.bench.rows import Measurement, Row
from lightning_adls.bench.steps import mean_square
from lightning_adls.bench.sweep import sweep
from lightning_adls.bench.timing import Rounds, Spread, alternate, break_even, time_ms
from lightning_adls.bench.variants import DTYPES, Variant

__all__ = [
    "DTYPES",
    "Graphs",
    "Measurement",
    "Rounds",
    "Row",
    "Spread",
    "Variant",
    "alternate",
    "break_even",
    "cold_cache",
    "count_graphs",
    "mean_square",
    "measure",
    "peak_bytes",
    "relative_error",
    "sweep",
    "time_ms",
    "token_ids",
]

"""What Lab 4 measures and draws: compiling, attention, packed weights, exports.

Each part is a dataclass of its settings. It measures some experiments into ``Results``, and then
says what its tables and figures are. It runs from Python as well as from the script:

    results = Results(Path("attention"), EXTRA_KEYS, about={})
    attention = Attention(backends=["math"], batch=2, heads=4, head_size=64, lengths=[64, 128])
    attention.measure(results, [Variant()], Rounds(), "cpu")
    attention.draw(results)
"""

from lightning_adls.bench.experiments.attention import Attention
from lightning_adls.bench.experiments.compiling import Compiling
from lightning_adls.bench.experiments.exporting import Exporting
from lightning_adls.bench.experiments.packing import Packing
from lightning_adls.bench.experiments.part import Part

EXTRA_KEYS = (
    *(*Compiling.extra_keys, *Attention.extra_keys),
    *(*Packing.extra_keys, *Exporting.extra_keys),
)
"""What the records of all parts hold beside a ``Measurement``."""

__all__ = ["EXTRA_KEYS", "Attention", "Compiling", "Exporting", "Packing", "Part"]

"""Changes made to a model before or while it trains: each is called with the model.

To add one: a frozen dataclass in a file of its own with ``__call__(model)``, and its name in
``TRANSFORMS`` of :mod:`lightning_adls.transforms.configs`; find and replace layers with
:mod:`lightning_adls.transforms.walk`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_adls.transforms.calibrate import calibrate
from lightning_adls.transforms.cost import bits_per_weight, costs, sparsity_of, summarize
from lightning_adls.transforms.coverage import CoveredWeight, coverage
from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.lora import LoRA
from lightning_adls.transforms.pack import Pack, memory
from lightning_adls.transforms.parameter_groups import parameter_groups
from lightning_adls.transforms.prune import Prune
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.structured import PruneStructured

Transform = Callable[[nn.Module], Any]

__all__ = [
    "CoveredWeight",
    "Drop",
    "LoRA",
    "Pack",
    "Prune",
    "PruneStructured",
    "Quantize",
    "Transform",
    "bits_per_weight",
    "calibrate",
    "costs",
    "coverage",
    "memory",
    "parameter_groups",
    "sparsity_of",
    "summarize",
]

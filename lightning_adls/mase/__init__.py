"""MASE side by side: its layers bit for bit, its configs, and MASE itself as a backend.

MASE (https://github.com/DeepWok/mase) rounds otherwise than the definitions of its formats say;
here is what it computes, to compare with it and with what was measured with it.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "LinearBinary",
    "LinearBinaryResidualSign",
    "LinearBinaryScaling",
    "LinearBlockFP",
    "LinearBlockLog",
    "LinearBlockMinifloat",
    "LinearInteger",
    "LinearLog",
    "LinearMXFP",
    "LinearMXInt",
    "LinearMinifloatDenorm",
    "LinearMinifloatIEEE",
    "LinearTernary",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lightning_adls.mase.layers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

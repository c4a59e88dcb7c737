"""MASE side by side: its quantisation configs read and written, and its layers bit for bit.

MASE (https://github.com/DeepWok/mase) rounds otherwise than the definitions of its formats say;
its layers compute here what they compute there, to compare with it and with what was measured with
it. They are the backend "mase" of a recipe: :mod:`lightning_adls.layers.mase`.
"""

from lightning_adls.layers.mase.linear import (
    LinearBinary,
    LinearBinaryResidualSign,
    LinearBinaryScaling,
    LinearBlockFP,
    LinearBlockLog,
    LinearBlockMinifloat,
    LinearInteger,
    LinearLog,
    LinearMinifloatDenorm,
    LinearMinifloatIEEE,
    LinearMXFP,
    LinearMXInt,
    LinearTernary,
)
from lightning_adls.mase.config import read_config
from lightning_adls.mase.export import to_config, write_config

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
    "read_config",
    "to_config",
    "write_config",
]

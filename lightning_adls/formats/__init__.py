"""Number formats: sets of representable values, emulated in floating point.

A format is a value, a frozen dataclass: ``Integer(width=4)(x)`` rounds a tensor, ``str`` and
``parse`` turn a format into text and back.
"""

from lightning_adls.formats.base import Encoded, NumberFormat
from lightning_adls.formats.binary import Binary
from lightning_adls.formats.block import BlockFP, BlockLog, BlockMinifloat
from lightning_adls.formats.elastic import ElasticBinary
from lightning_adls.formats.integer import Integer
from lightning_adls.formats.learned import LearnedInteger
from lightning_adls.formats.log import Log
from lightning_adls.formats.minifloat import MinifloatDenorm, MinifloatIEEE
from lightning_adls.formats.mx import MXFP, MXInt
from lightning_adls.formats.residual import ResidualSign
from lightning_adls.formats.ternary import Ternary

parse = NumberFormat.parse

__all__ = [
    "MXFP",
    "Binary",
    "BlockFP",
    "BlockLog",
    "BlockMinifloat",
    "ElasticBinary",
    "Encoded",
    "Integer",
    "LearnedInteger",
    "Log",
    "MXInt",
    "MinifloatDenorm",
    "MinifloatIEEE",
    "NumberFormat",
    "ResidualSign",
    "Ternary",
    "parse",
]

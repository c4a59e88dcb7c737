"""Layers that compute with rounded numbers; of them all ``kinds`` and ``backends`` tell."""

from lightning_adls.layers.backends import BACKENDS, Build, builder
from lightning_adls.layers.conv import QuantizedConv1d, QuantizedConv2d
from lightning_adls.layers.embedding import QuantizedEmbedding
from lightning_adls.layers.kinds import COMPUTING, KINDS, formats_of, is_kind, quantized
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.quantized_layer import QuantizedLayer
from lightning_adls.layers.record import RECORD_KEY, LayerRecord

__all__ = [
    "BACKENDS",
    "COMPUTING",
    "KINDS",
    "RECORD_KEY",
    "ROLES",
    "Build",
    "LayerFormats",
    "LayerRecord",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "builder",
    "formats_of",
    "is_kind",
    "quantized",
]

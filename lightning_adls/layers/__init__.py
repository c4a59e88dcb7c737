"""Layers that compute with rounded numbers; of them all ``kinds`` and ``backends`` tell."""

from lightning_adls.layers.attention import QuantizedMultiheadAttention
from lightning_adls.layers.backends import BACKENDS, Build, builder
from lightning_adls.layers.conv import QuantizedConv1d, QuantizedConv2d, QuantizedConv3d
from lightning_adls.layers.conv_transpose import (
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
)
from lightning_adls.layers.embedding import QuantizedEmbedding
from lightning_adls.layers.kinds import (
    COMPUTING,
    KINDS,
    bias_of,
    formats_of,
    has_recipe,
    is_kind,
    is_switched,
    quantized,
    quantized_type_of,
    weight_of,
)
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
    "QuantizedConv3d",
    "QuantizedConvTranspose1d",
    "QuantizedConvTranspose2d",
    "QuantizedConvTranspose3d",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedMultiheadAttention",
    "bias_of",
    "builder",
    "formats_of",
    "has_recipe",
    "is_kind",
    "is_switched",
    "quantized",
    "quantized_type_of",
    "weight_of",
]

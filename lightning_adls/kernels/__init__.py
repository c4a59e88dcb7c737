"""Packed tensors: made once, unpacked wherever they are needed, by the fastest way of the device.

``quantize`` and ``dequantize`` speak MXINT8, the format ``formats.MXInt(width=8, block_size=32)``
stored in 8.25 bits per element, and agree with it bit for bit.
"""

from lightning_adls.kernels.mxint8 import dequantize, exponents_shape, quantize, same_codes
from lightning_adls.kernels.mxint8_torch import BLOCK_SIZE, dequantize_reference

__all__ = [
    "BLOCK_SIZE",
    "dequantize",
    "dequantize_reference",
    "exponents_shape",
    "quantize",
    "same_codes",
]

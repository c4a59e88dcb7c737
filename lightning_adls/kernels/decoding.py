"""Decoding a matrix by the fastest way of its device: all give the same bits."""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.kernels.decode_compiled import KERNELS, decode_compiled
from lightning_adls.kernels.decode_torch import decode_torch
from lightning_adls.kernels.lookup import Lookup


def decode(
    shapes: CodedShapes, codes: Tensor, shared: Tensor | None, mask: Tensor | None
) -> Tensor:
    """The values of a matrix in codes.

    On the CPU by ``decode.cpp``, once it is compiled; on CUDA by a Triton kernel, where Triton is
    installed; by torch's operators elsewhere, and where a format has no table of its codes (more
    than 16 bits, or float64).

    Args:
        shapes: Format, rows and columns, dtype.
        codes: The parts of a :class:`~lightning_adls.kernels.coded.Coded` of these shapes.
        shared: Likewise.
        mask: Likewise.

    Returns:
        Shape ``shapes.shape``, of ``shapes.dtype``.
    """
    scales = shared if shared is not None and shared.is_floating_point() else None
    lookup = Lookup.of(shapes, scales, codes.device)
    elements = math.prod(shapes.shape)
    if lookup is not None and elements:
        if codes.device.type == "cpu" and KERNELS.pay(elements):
            return decode_compiled(shapes, lookup, codes, shared, mask)
        if codes.device.type == "cuda" and find_spec("triton") is not None:
            from lightning_adls.kernels.decode_triton import decode_triton

            with torch.cuda.device(codes.device):
                return decode_triton(shapes, lookup, codes, shared, mask)
    return decode_torch(shapes, lookup, codes, shared, mask)

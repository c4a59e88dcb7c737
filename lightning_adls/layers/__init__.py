"""Layers that compute with rounded numbers.

To add one: a class in a file of its own and a line in ``KINDS``; recipes, pruning, calibration and
the callbacks find it there.
"""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from torch import nn

from lightning_adls.errors import InputError
from lightning_adls.layers.base import ROLES, LayerFormats, QuantizedLayer
from lightning_adls.layers.conv import QuantizedConv1d, QuantizedConv2d
from lightning_adls.layers.embedding import QuantizedEmbedding
from lightning_adls.layers.linear import QuantizedLinear

# By kind, the plain class and the quantised one.
KINDS: dict[str, tuple[type[nn.Module], type[QuantizedLayer]]] = {
    "Linear": (nn.Linear, QuantizedLinear),
    "Conv1d": (nn.Conv1d, QuantizedConv1d),
    "Conv2d": (nn.Conv2d, QuantizedConv2d),
    "Embedding": (nn.Embedding, QuantizedEmbedding),
}
# Embeddings only look numbers up: recipes and pruning leave them out unless told otherwise.
COMPUTING = ("Linear", "Conv1d", "Conv2d")

Build = Callable[[nn.Module, LayerFormats], QuantizedLayer]
# What computes: by name, a module with a function `quantized(layer, formats)`. They are imported
# when they are asked for, because some need packages that are not there.
BACKENDS = {
    "standard": "lightning_adls.layers",
    "mase": "lightning_adls.mase.layers",
    "chop": "lightning_adls.mase.chop",
}

__all__ = [
    "BACKENDS",
    "COMPUTING",
    "KINDS",
    "ROLES",
    "LayerFormats",
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


def formats_of(layer: nn.Module) -> LayerFormats:
    """The formats of a layer; those of a plain one are all None."""
    return layer.formats if isinstance(layer, QuantizedLayer) else LayerFormats()


def is_kind(layer: nn.Module, kind: str) -> bool:
    """Whether a layer is of one of the ``KINDS``, plain or quantised.

    Subclasses of plain layers are of no kind: their owners may read ``weight`` without calling
    the layer, as ``nn.MultiheadAttention`` does, and a replacement would change nothing.
    """
    plain, quantized_type = KINDS[kind]
    return type(layer) is plain or isinstance(layer, quantized_type)


def builder(backend: str) -> Build:
    """What makes quantised layers that compute with ``backend``.

    Raises:
        ValueError: If there is no such backend.
        ImportError: If it needs a package that is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is unknown; there are {', '.join(BACKENDS)}.")
    return cast(Build, import_module(BACKENDS[backend]).quantized)


def quantized(layer: nn.Module, formats: LayerFormats) -> QuantizedLayer:
    """A quantised layer of the same kind on the SAME parameters as ``layer``.

    Args:
        layer: A plain layer of one of the ``KINDS``, or a quantised one; see
            :meth:`QuantizedLayer.from_layer`.
        formats: What its tensors are rounded to; ``LayerFormats()`` makes a layer that rounds
            nothing and can carry a sparsity mask.

    Raises:
        ValueError: If there is no quantised layer of its kind.
    """
    for kind, (_, quantized_type) in KINDS.items():
        if is_kind(layer, kind):
            return quantized_type.from_layer(layer, formats)
    raise InputError(
        f"quantized: layer={type(layer).__name__} has no quantised kind; there are "
        f"{', '.join(KINDS)}."
    )

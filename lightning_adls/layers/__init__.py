"""Layers that compute with rounded numbers.

To add one: a class in a file of its own and a line in ``KINDS``; recipes, pruning, calibration and
the callbacks find it there.
"""

from torch import nn

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

__all__ = [
    "COMPUTING",
    "KINDS",
    "ROLES",
    "LayerFormats",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "formats_of",
    "quantized",
]


def formats_of(layer: nn.Module) -> LayerFormats:
    """The formats of a layer; those of a plain one are all None."""
    return layer.formats if isinstance(layer, QuantizedLayer) else LayerFormats()


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
    for pair in KINDS.values():
        if type(layer) in pair:
            return pair[1].from_layer(layer, formats)
    raise ValueError(
        f"quantized: layer={type(layer).__name__} has no quantised kind; there are "
        f"{', '.join(KINDS)}."
    )

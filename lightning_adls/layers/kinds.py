"""The kinds of layers that can be quantised, and what makes a quantised one of a plain one.

To add one: a class in a file of its own and a line in ``KINDS``; recipes, pruning, calibration and
the callbacks find it there.
"""

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.conv import QuantizedConv1d, QuantizedConv2d
from lightning_adls.layers.embedding import QuantizedEmbedding
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.quantized_layer import QuantizedLayer

# By kind, the plain class and the quantised one.
KINDS: dict[str, tuple[type[nn.Module], type[QuantizedLayer]]] = {
    "Linear": (nn.Linear, QuantizedLinear),
    "Conv1d": (nn.Conv1d, QuantizedConv1d),
    "Conv2d": (nn.Conv2d, QuantizedConv2d),
    "Embedding": (nn.Embedding, QuantizedEmbedding),
}
# Embeddings only look numbers up: recipes and pruning leave them out unless told otherwise.
COMPUTING = ("Linear", "Conv1d", "Conv2d")


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
    raise InputValueError(
        f"quantized: layer={type(layer).__name__} has no quantised kind; there are "
        f"{', '.join(KINDS)}."
    )

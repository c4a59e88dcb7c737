"""The kinds of layers that can be quantised, and what makes a quantised one of a plain one.

To add one: a class in a file of its own and a line in ``KINDS``; recipes, pruning, calibration and
the callbacks find it there.
"""

import sys
from collections.abc import Callable
from typing import cast

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.attention import QuantizedMultiheadAttention
from lightning_adls.layers.conv import QuantizedConv1d, QuantizedConv2d, QuantizedConv3d
from lightning_adls.layers.conv_transpose import (
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
)
from lightning_adls.layers.embedding import QuantizedEmbedding
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.quantized_layer import QuantizedLayer


def _transformers_conv1d() -> type[QuantizedLayer] | None:
    # Transformers takes seconds to import, and who has a layer of it has done so.
    if "transformers.pytorch_utils" not in sys.modules:
        return None
    from lightning_adls.layers.transformers_conv1d import QuantizedTransformersConv1D

    return QuantizedTransformersConv1D


# By kind, what gives its quantised class: None as long as nobody can have a layer of the kind.
KINDS: dict[str, Callable[[], type[QuantizedLayer] | None]] = {
    "Linear": lambda: QuantizedLinear,
    "Conv1d": lambda: QuantizedConv1d,
    "Conv2d": lambda: QuantizedConv2d,
    "Conv3d": lambda: QuantizedConv3d,
    "ConvTranspose1d": lambda: QuantizedConvTranspose1d,
    "ConvTranspose2d": lambda: QuantizedConvTranspose2d,
    "ConvTranspose3d": lambda: QuantizedConvTranspose3d,
    "MultiheadAttention": lambda: QuantizedMultiheadAttention,
    "TransformersConv1D": _transformers_conv1d,
    "Embedding": lambda: QuantizedEmbedding,
}
# Embeddings only look numbers up: recipes and pruning leave them out unless told otherwise.
COMPUTING = tuple(kind for kind in KINDS if kind != "Embedding")


def formats_of(layer: nn.Module) -> LayerFormats:
    """The formats of a layer; those of a plain one are all None."""
    return layer.formats if isinstance(layer, QuantizedLayer) else LayerFormats()


def has_recipe(layer: nn.Module) -> bool:
    """Whether a layer may round anything."""
    return isinstance(layer, QuantizedLayer) and layer.has_recipe


def is_switched(layer: nn.Module) -> bool:
    """Whether a layer is switched between formats, of each of which it has scales."""
    return isinstance(layer, QuantizedLayer) and layer.scales_by_format is not None


def is_kind(layer: nn.Module, kind: str) -> bool:
    """Whether a layer is of one of the ``KINDS``, plain or quantised.

    Subclasses of plain layers are of no kind: what they compute is not known, nor what their owners
    read from them. An attention with a weight each for query, key and value is of no kind either.
    """
    quantized_type = KINDS[kind]()
    return quantized_type is not None and (
        quantized_type.stands_for(layer) or isinstance(layer, quantized_type)
    )


def quantized_type_of(layer: nn.Module) -> type[QuantizedLayer] | None:
    """The quantised class of a layer's kind; None if it is of no kind."""
    return next((make() for kind, make in KINDS.items() if is_kind(layer, kind)), None)


def weight_of(layer: nn.Module) -> nn.Parameter:
    """What is multiplied by a layer of one of the ``KINDS``, under whatever name, unrounded."""
    quantized_type = quantized_type_of(layer)
    assert quantized_type is not None
    return cast(nn.Parameter, getattr(layer, quantized_type.weight_name))


def bias_of(layer: nn.Module) -> nn.Parameter | None:
    """What a layer of one of the ``KINDS`` adds, unrounded; None if it has no bias."""
    quantized_type = quantized_type_of(layer)
    assert quantized_type is not None
    return layer._parameters.get(quantized_type.bias_name)


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
    if (quantized_type := quantized_type_of(layer)) is not None:
        return quantized_type.from_layer(layer, formats)
    raise InputValueError(
        f"quantized: layer={type(layer).__name__} has no quantised kind; there are "
        f"{', '.join(KINDS)}."
    )

"""What a model costs to keep: numbers that a search weighs against its accuracy."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import COMPUTING, KINDS, LayerFormats, QuantizedLayer, formats_of
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.transforms.walk import layers_of

# A weight and the layers that compute with it.
_Users = tuple[Tensor, list[nn.Module]]
COSTS = ("parameters", "size_mb", "bits_per_weight", "sparsity")


def costs(model: nn.Module) -> dict[str, float]:
    """Costs of a model by name.

    Returns:
        ``parameters``: how many numbers its parameters hold, embeddings included.
        ``size_mb``: storage in 10^6 bytes, weights in their formats, the rest in its data type.
        ``bits_per_weight``: storage of the linear layers' and convolutions' weights.
        ``sparsity``: share of weights that masks set to zero, 0 to 1; it saves no storage.

    Raises:
        ValueError: If the model has no linear layer and no convolution.

    Example:
        >>> costs(nn.Sequential(nn.Linear(10, 10)))
        {'parameters': 110, 'size_mb': 0.00044, 'bits_per_weight': 32.0, 'sparsity': 0.0}
    """
    return {
        "parameters": count_parameters(model),
        "size_mb": size_mb(model),
        "bits_per_weight": bits_per_weight(model),
        "sparsity": sparsity_of(model),
    }


def count_parameters(model: nn.Module) -> int:
    """Numbers in all parameters and packed weights; one that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def sparsity_of(model: nn.Module) -> float:
    """Share of the weights that masks set to zero, 0 to 1.

    Counts the weights of all linear and convolutional layers, those without a mask (and those that
    are packed) as dense, and of the embeddings that have a mask. A weight that several of them
    share counts once, and is zero where all of them mask it.

    Raises:
        ValueError: If there are no such layers.
    """
    masked = [
        m
        for m in layers_of(model, ("Embedding",)).values()
        if getattr(m, "weight_mask", None) is not None
    ]
    weights = _by_weight([*_computing_layers(model).values(), *masked])
    if not weights:
        raise InputValueError(
            f"sparsity_of: model={type(model).__name__} has no layer with weights."
        )
    return sum(_pruned(layers) for _, layers in weights) / _count(weights)


def _packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, PackedLinear)}


def _computing_layers(model: nn.Module) -> dict[str, nn.Module]:
    """What multiplies with weights, packed ones included, by name."""
    return {**layers_of(model), **_packed_layers(model)}


def _by_weight(layers: Iterable[nn.Module]) -> list[_Users]:
    """Each weight once, with the layers that compute with it."""
    users: dict[int, _Users] = {}
    for layer in layers:
        weight = _weight(layer)
        users.setdefault(id(weight), (weight, []))[1].append(layer)
    return list(users.values())


def _count(weights: Iterable[_Users]) -> int:
    return sum(weight.numel() for weight, _ in weights)


def _pruned(layers: Sequence[nn.Module]) -> int:
    """How many numbers of a weight none of its layers computes with."""
    masks: list[Tensor | None] = [getattr(layer, "weight_mask", None) for layer in layers]
    present = [mask for mask in masks if mask is not None]
    if len(present) < len(masks):
        return 0
    return int((~torch.stack(present).any(0)).sum())


def weight_bits(layer: nn.Module) -> int:
    """Storage of a layer's weight in bits, what its elements share included."""
    if isinstance(layer, PackedLinear):
        return 8 * layer.weight.nbytes
    weight, fmt = _weight(layer), formats_of(layer).weight
    if fmt is None:
        return weight.nbytes * 8
    return fmt.storage_bits((len(weight), weight[0].numel()))


def bits_per_weight(model: nn.Module) -> float:
    """Storage of the weights that are multiplied with, in bits per weight, shared scales included.

    Layers that are not quantised count with the width of their data type; embeddings do not count.
    Pruned weights count in full: a mask by itself saves no storage. A weight that layers share
    counts once, as in :func:`size_mb`.

    Raises:
        ValueError: If the model has no linear layer and no convolution.
    """
    weights = _by_weight(_computing_layers(model).values())
    if not weights:
        raise InputValueError(
            f"bits_per_weight: model={type(model).__name__} has no layer of {', '.join(COMPUTING)}."
        )
    return sum(_stored_bits(users) for users in weights) / _count(weights)


def size_mb(model: nn.Module) -> float:
    """Storage of a model in MB, 10^6 bytes.

    Weights count in their format, embeddings included, and every other parameter (norms, biases,
    scales) in its data type. A parameter that is used twice counts once: in full if one of its
    users does not round it; otherwise in each of the formats that it is rounded to, and at most in
    full, from which all of them can be rounded.
    """
    places = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    saved_bits = sum(
        weight.nbytes * 8 - _stored_bits((weight, layers))
        for weight, layers in _by_weight(layers_of(model, tuple(KINDS)).values())
        if len(layers) == places[id(weight)]  # no other module holds it
    )
    return (_full_bytes(model) - saved_bits / 8) / 1e6


def _stored_bits(users: _Users) -> int:
    """Bits of a weight in all the formats that its layers round it to."""
    weight, layers = users
    copies = {
        (formats_of(layer).weight, _backend(layer), id(getattr(layer, "weight_scales", None))): (
            weight_bits(layer)
        )
        for layer in layers
    }
    bits = sum(copies.values())
    return bits if len(copies) == 1 else min(bits, weight.nbytes * 8)


def _backend(layer: nn.Module) -> str | None:
    return layer.backend if isinstance(layer, QuantizedLayer) else None


def _full_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())


def _weight(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.weight)


def summarize(model: nn.Module) -> str:
    """A short table of what is quantised: layers and weights per format, bits, size in MB."""
    layers = _computing_layers(model)
    layers |= {
        name: layer
        for name, layer in layers_of(model, ("Embedding",)).items()
        if isinstance(layer, QuantizedLayer)
    }
    layer_count: Counter[str] = Counter()
    weight_count: Counter[str] = Counter()
    for layer in layers.values():
        formats = formats_of(layer)
        text = "full precision" if formats == LayerFormats() else str(formats)
        layer_count[text] += 1
        weight_count[text] += _weight(layer).numel()
    rows = [
        f"{n:>4} layers {weight_count[text]:>12,} weights  {text}"
        for text, n in layer_count.items()
    ]
    # What packed weights once were is not known; they are taken for float32.
    packed = _packed_layers(model).values()
    full = _full_bytes(model) + sum(4 * m.weight.numel() - m.weight.nbytes for m in packed)
    rows.append(
        f"{bits_per_weight(model):.2f} bits per weight; "
        f"{size_mb(model):.2f} MB, {full / 1e6:.2f} MB unquantised"
    )
    return "\n".join(rows)

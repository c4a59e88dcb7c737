"""What a model costs to keep: numbers that a search weighs against its accuracy."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import QuantizedLayer, formats_of, weight_of
from lightning_adls.layers.stored_weight import is_stored, stored_weight_of
from lightning_adls.transforms.multiplied import (
    Use,
    multiplied_weights,
    refuse_lazy,
    shortened,
    weights_of,
)

COSTS = ("parameters", "size_mb", "bits_per_weight", "sparsity")


def costs(model: nn.Module) -> dict[str, float]:
    """Costs of a model by name.

    Returns:
        ``parameters``: how many numbers its parameters hold, embeddings included.
        ``size_mb``: storage in 10^6 bytes, weights in their formats, the rest in its data type.
        ``bits_per_weight``: storage of the weights that are multiplied with.
        ``sparsity``: share of weights that masks set to zero, 0 to 1; it saves no storage.

    Raises:
        ValueError: If nothing is multiplied with, or a parameter has no size yet.

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
    """Numbers in all parameters and packed weights; one that is used twice counts once.

    Raises:
        ValueError: If a parameter has no size yet.
    """
    refuse_lazy(model, "count_parameters")
    return sum(parameter.numel() for parameter in model.parameters())


def sparsity_of(model: nn.Module) -> float:
    """Share of the weights that masks set to zero, 0 to 1.

    Counts all weights that are multiplied with, those without a mask (and those that are packed) as
    dense, and of the embeddings those that have a mask. A weight that several layers share counts
    once, and is zero where all of them mask it.

    Raises:
        ValueError: If there are no such weights, or a parameter has no size yet.
    """
    refuse_lazy(model, "sparsity_of")
    weights = [
        counted
        for uses in weights_of(model)
        if (counted := [use for use in uses if use.multiplied or _mask(use) is not None])
    ]
    if not weights:
        raise InputValueError(
            f"sparsity_of: model={type(model).__name__} has no layer with weights."
        )
    return sum(map(_pruned, weights)) / _count(weights)


def _count(weights: Iterable[Sequence[Use]]) -> int:
    return sum(uses[0].elements for uses in weights)


def _mask(use: Use) -> Tensor | None:
    key = "weight" if isinstance(use.module, QuantizedLayer) else use.key
    return getattr(use.module, f"{key}_mask", None)


def _pruned(uses: Sequence[Use]) -> int:
    """How many numbers of a weight none of its layers computes with."""
    masks = [mask for use in uses if (mask := _mask(use)) is not None]
    if len(masks) < len(uses):
        return 0
    return int((~torch.stack(masks).any(0)).sum())


def weight_bits(layer: nn.Module) -> int:
    """Storage of a layer's weight in bits, what its elements share included."""
    if (stored := stored_weight_of(layer)) is not None:
        return 8 * stored.nbytes
    weight, fmt = weight_of(layer), formats_of(layer).weight
    if fmt is None or not isinstance(layer, QuantizedLayer):
        return weight.nbytes * 8
    rows, columns = layer.to_rows(weight).shape
    return fmt.storage_bits((rows, columns))


def bits_per_weight(model: nn.Module) -> float:
    """Storage of the weights that are multiplied with, in bits per weight, shared scales included.

    Which these are is told by :func:`lightning_adls.transforms.multiplied.weights_of`. Those that
    nothing rounds count with the width of their data type; embeddings do not count. Pruned weights
    count in full: a mask by itself saves no storage. A weight that layers share counts once, as in
    :func:`size_mb`.

    Raises:
        ValueError: If nothing is multiplied with, or a parameter has no size yet.
    """
    refuse_lazy(model, "bits_per_weight")
    weights = multiplied_weights(model)
    if not weights:
        raise InputValueError(
            f"bits_per_weight: model={type(model).__name__} has no weight that is multiplied with."
        )
    return sum(map(stored_bits, weights)) / _count(weights)


def size_mb(model: nn.Module) -> float:
    """Storage of a model in MB, 10^6 bytes.

    Weights count in their format, embeddings included, and every other parameter (norms, biases,
    scales) in its data type. A parameter that is used twice counts once: in full if one of its
    users does not round it; otherwise in each of the formats that it is rounded to, and at most in
    full, from which all of them can be rounded.

    Raises:
        ValueError: If a parameter has no size yet.
    """
    refuse_lazy(model, "size_mb")
    saved_bits = sum(
        uses[0].full_bits - stored_bits(uses, scales=False)
        for uses in weights_of(model)
        if not is_stored(uses[0].module)  # which is as small as it gets
    )
    return (_full_bytes(model) - saved_bits / 8) / 1e6


def stored_bits(uses: Sequence[Use], scales: bool = True) -> int:
    """Bits of a weight in all the formats that it is rounded to, at most in full.

    Args:
        uses: Those of the weight.
        scales: Whether scales that are learned, and so are parameters themselves, are counted.
    """
    copies = {}
    for use in uses:
        layer, learned = use.module, getattr(use.module, "weight_scales", None)
        bits = use.full_bits if use.format is None else weight_bits(layer)
        if use.format is not None and learned is not None and not scales:
            bits -= _scale_bits(use.format)
        copies[use.format, _backend(layer), id(learned)] = bits
    total = sum(copies.values())
    return total if len(copies) == 1 else min(total, uses[0].full_bits)


def _scale_bits(fmt: NumberFormat) -> int:
    """What the format itself counts for scales that it learns."""
    scales = fmt.initial_scales()
    return 0 if scales is None else 32 * scales.numel()


def _backend(layer: nn.Module) -> str | None:
    return layer.backend if isinstance(layer, QuantizedLayer) else None


def _full_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())


def summarize(model: nn.Module) -> str:
    """A short table of all weights that are multiplied with, and of embeddings that are rounded.

    Layers and weights for each choice of formats; those in full precision by name, with the reason;
    then bits and size in MB. A weight that layers share counts once in a row.

    Raises:
        ValueError: If nothing is multiplied with, or a parameter has no size yet.
    """
    rows: dict[tuple[str, str], list[Use]] = {}
    for uses in weights_of(model):
        for use in uses:
            if use.multiplied or use.format is not None:
                row = ("full precision", use.reason) if use.reason else ("", _formats(use))
                rows.setdefault(row, []).append(use)
    lines = [_line(uses, *row) for row, uses in rows.items()]
    # What packed weights once were is not known; they are taken for float32.
    stored = {id(w): w for m in model.modules() if (w := stored_weight_of(m)) is not None}
    full = _full_bytes(model) + sum(4 * w.numel() - w.nbytes for w in stored.values())
    lines.append(
        f"{bits_per_weight(model):.2f} bits per weight; "
        f"{size_mb(model):.2f} MB, {full / 1e6:.2f} MB unquantised"
    )
    return "\n".join(lines)


def _formats(use: Use) -> str:
    return str(formats_of(use.module))


def _line(uses: Sequence[Use], title: str, text: str) -> str:
    layers = len({id(use.module) for use in uses})
    weights = sum({id(use.tensor): use.elements for use in uses}.values())
    if title:
        text = f"{title}: {shortened(use.label for use in uses)} ({text})"
    return f"{layers:>4} {'layer' if layers == 1 else 'layers':<6} {weights:>12,} weights  {text}"

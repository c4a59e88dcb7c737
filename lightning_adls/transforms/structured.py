"""Structured pruning: remove whole attention heads and feed-forward neurons of a BERT."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer, QuantizedLinear

# A name, because importing Transformers takes seconds, and who has such a layer has done it.
_LAYER = "transformers.models.bert.modeling_bert.BertLayer"


@dataclass(frozen=True)
class PruneStructured:
    """Remove attention heads and feed-forward neurons from each encoder layer of a BERT.

    The matrices become smaller, and with them memory and time. Of the heads, and of the neurons,
    of each layer ``round(share * count)`` are removed; at least one stays. Quantised layers keep
    their formats, masks and learned scales.

    The parameters are new: make optimisers afterwards. The model's configuration goes on
    describing the unpruned model, so a checkpoint is loaded by building that model, pruning it by
    the same shares, which gives the same shapes whatever its weights are, and loading.

    Args:
        heads: Share of the heads to remove, 0 to below 1.
        neurons: Share of the feed-forward neurons to remove, 0 to below 1.
        method: ``l1`` removes those whose weights have the smallest sum of magnitudes (of a head:
            its rows of query, key and value and its columns of the output; of a neuron: its row in
            and its column out; masked weights count as zero), ``random`` any.
        seed: Of ``random``; the global generator is left alone.

    Raises:
        ValueError: If a share is out of range, or, when called, the model has no encoder layers of
            Transformers' BERT or one whose linear layers are wrapped by something else.

    Example:
        >>> from lightning_adls.models import bert
        >>> model = bert(vocab_size=100, hidden_size=16, num_attention_heads=4)
        >>> PruneStructured(heads=0.5, neurons=0.75)(model)
        >>> layer = model.bert.encoder.layer[0]
        >>> layer.attention.self.query.weight.shape, layer.intermediate.dense.weight.shape
        (torch.Size([8, 16]), torch.Size([128, 16]))
    """

    heads: float = 0.0
    neurons: float = 0.0
    method: Literal["l1", "random"] = "l1"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputValueError(f"PruneStructured: {name}={value} is not in 0 <= {name} < 1.")
        if self.method not in ("l1", "random"):
            raise InputValueError(
                f"PruneStructured: method={self.method!r} is neither 'l1' nor 'random'."
            )

    def __call__(self, model: nn.Module) -> None:
        """Prune ``model`` in place."""
        generator = torch.Generator().manual_seed(self.seed)
        for layer in _encoder_layers(model):
            attention = layer.attention.self
            into, out = _projections(layer)
            size, count = attention.attention_head_size, attention.num_attention_heads
            kept = self._kept(_magnitudes(into, out, count), self.heads, generator)
            entries = (kept[:, None] * size + torch.arange(size)).flatten()
            _keep(into, out, entries)
            attention.num_attention_heads = len(kept)
            attention.all_head_size = len(entries)

            into, out = _feed_forward(layer)
            kept = self._kept(_magnitudes(into, out, out.in_features), self.neurons, generator)
            _keep(into, out, kept)

    def _kept(self, magnitudes: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Indices of the units that stay, ascending."""
        count = len(magnitudes)
        removed = min(round(share * count), count - 1)
        if self.method == "random":
            order = torch.randperm(count, generator=generator)
        else:
            order = magnitudes.argsort(stable=True)
        return order[removed:].sort().values


def _encoder_layers(model: nn.Module) -> list[Any]:
    layers = [
        module
        for module in model.modules()
        if any(f"{base.__module__}.{base.__name__}" == _LAYER for base in type(module).__mro__)
    ]
    if not layers:
        raise InputValueError(
            f"PruneStructured: model={type(model).__name__} has no encoder layers of a BERT; give "
            "a BertModel of Transformers or a model that holds one."
        )
    for layer in layers:
        for into, out in (_projections(layer), _feed_forward(layer)):
            for linear in (*into, out):
                if type(linear) not in (nn.Linear, QuantizedLinear):
                    raise InputValueError(
                        f"PruneStructured: a BertLayer holds {type(linear).__name__} where a "
                        "linear layer belongs; merge adapters into the model before."
                    )
    return layers


def _projections(layer: Any) -> tuple[list[nn.Linear], nn.Linear]:
    """What leads into the heads of a layer, and what leads out of them."""
    attention = layer.attention.self
    return [attention.query, attention.key, attention.value], layer.attention.output.dense


def _feed_forward(layer: Any) -> tuple[list[nn.Linear], nn.Linear]:
    """What leads into the neurons of a layer, and what leads out of them."""
    return [layer.intermediate.dense], layer.output.dense


def _magnitudes(into: list[nn.Linear], out: nn.Linear, count: int) -> Tensor:
    """L1 norm of each of ``count`` units' weights, on the CPU: shape ``(count,)``."""
    rows = [_magnitude(linear).sum(1) for linear in into]
    per_entry = torch.stack([*rows, _magnitude(out).sum(0)]).sum(0)
    return per_entry.view(count, -1).sum(1).cpu()


def _magnitude(linear: nn.Linear) -> Tensor:
    magnitude = linear.weight.detach().abs().float()
    if isinstance(linear, QuantizedLayer) and linear.weight_mask is not None:
        magnitude = magnitude.masked_fill(~linear.weight_mask, 0.0)
    return magnitude


def _keep(into: list[nn.Linear], out: nn.Linear, entries: Tensor) -> None:
    """Keep the given rows of the layers that lead in and the same columns of the one out."""
    if len(entries) == out.in_features:
        return
    for linear in into:
        _slice(linear, 0, entries)
        linear.out_features = len(entries)
    _slice(out, 1, entries)
    out.in_features = len(entries)


def _slice(linear: nn.Linear, dim: int, entries: Tensor) -> None:
    # The module itself stays: with it its formats, learned scales, hooks and mode.
    entries = entries.to(linear.weight.device)
    linear.weight = _selected(linear.weight, dim, entries)
    if dim == 0 and linear.bias is not None:
        linear.bias = _selected(linear.bias, dim, entries)
    if isinstance(linear, QuantizedLayer) and linear.weight_mask is not None:
        linear.weight_mask = linear.weight_mask.index_select(dim, entries)


def _selected(parameter: Tensor, dim: int, entries: Tensor) -> nn.Parameter:
    data = parameter.detach().index_select(dim, entries)
    return nn.Parameter(data, parameter.requires_grad)

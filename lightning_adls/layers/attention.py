"""The quantised multi-head attention."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_adls.errors import InputValueError
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer


class QuantizedMultiheadAttention(QuantizedLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` that rounds what its projections multiply.

    Query, key and value are the input, ``in_proj_weight`` and ``in_proj_bias`` are weight and bias
    of :class:`QuantizedLayer`; an output of the projections sums over a row of the weight. Scales
    of the input that are learned are fitted to query, key and value together. The products of
    attention itself are not rounded.

    ``out_proj`` is a layer by itself, of kind ``Linear``, that may be quantised, pruned or packed.
    It is called, where the plain attention reads its weight.

    Args:
        embed_dim: Features of query, key, value and output.
        num_heads: How many heads share them; divides ``embed_dim``.
        dropout: Probability with which an attention weight is dropped in training.
        bias: Whether the projections add a bias.
        add_bias_kv: Whether a learned key and value are added to each sequence.
        add_zero_attn: Whether a key and value of zeros are added to each sequence.
        batch_first: Whether samples come before positions in inputs and output.
        formats: What query, key and value, ``in_proj_weight`` and ``in_proj_bias`` are rounded to.
        device: Where the parameters lie.
        dtype: Of the parameters.

    Example:
        >>> from lightning_adls.formats import MXInt
        >>> formats = LayerFormats(weight=MXInt())
        >>> layer = QuantizedMultiheadAttention(16, 2, batch_first=True, formats=formats)
        >>> x = torch.ones(4, 7, 16)
        >>> output, weights = layer(x, x, x)
        >>> output.shape, weights.shape
        (torch.Size([4, 7, 16]), torch.Size([4, 7, 7]))
    """

    kind: ClassVar[str] = "MultiheadAttention"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.MultiheadAttention,)
    weight_name: ClassVar[str] = "in_proj_weight"
    bias_name: ClassVar[str] = "in_proj_bias"
    input_names: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        batch_first: bool = False,
        *,
        formats: LayerFormats,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.MultiheadAttention.__init__(
            self,
            embed_dim,
            num_heads,
            dropout,
            bias,
            add_bias_kv,
            add_zero_attn,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self._add_formats(formats)

    @classmethod
    def stands_for(cls, layer: nn.Module) -> bool:
        """Not for one that has a weight each for query, key and value (``kdim``, ``vdim``)."""
        sizes: Any = layer
        return super().stands_for(layer) and sizes.embed_dim == sizes.kdim == sizes.vdim

    @staticmethod
    def arguments_of(layer: nn.MultiheadAttention) -> dict[str, Any]:
        """Constructor arguments of ``layer``."""
        names = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "batch_first")
        return {name: getattr(layer, name) for name in names} | {
            "bias": layer.in_proj_bias is not None,
            "add_bias_kv": layer.bias_k is not None,
        }

    def _share(self, layer: Any) -> None:
        super()._share(layer)
        self.out_proj, self.bias_k, self.bias_v = layer.out_proj, layer.bias_k, layer.bias_v

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``key`` and ``value``, with the arguments of the plain layer.

        Raises:
            ValueError: If a tensor is nested, shapes do not fit, a mask is neither bool nor
                floating point, or ``is_causal`` comes without the mask.
        """
        inputs = self._samples_first(query, key, value)
        (samples, targets, _), sources = inputs[0].shape, inputs[1].shape[1]
        if is_causal and attn_mask is None:
            raise self._error("is_causal=True says what attn_mask is; give that mask as well")
        one, each = (targets, sources), (samples * self.num_heads, targets, sources)
        mask = self._additive("attn_mask", attn_mask, [one, each], query.dtype)
        padded = (samples, sources) if query.dim() == 3 else (sources,)
        padding = self._additive("key_padding_mask", key_padding_mask, [padded], query.dtype)

        heads, keys, values = self._projected(inputs)
        added = (0, keys.shape[2] - sources)
        causal = is_causal and padding is None and not need_weights
        if causal:
            mask = None
        if mask is not None:
            mask = functional.pad(mask, added)
            mask = mask.unflatten(0, (samples, -1)) if mask.dim() == 3 else mask
        if padding is not None:
            padding = functional.pad(padding, added).view(samples, 1, 1, -1)
            mask = padding if mask is None else mask + padding

        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (heads * heads.shape[-1] ** -0.5) @ keys.mT
            scores = scores if mask is None else scores + mask
            weights = functional.dropout(scores.softmax(-1), dropout)
            attended = weights @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = functional.scaled_dot_product_attention(
                heads, keys, values, mask, dropout, causal
            )
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        if query.dim() == 2:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _samples_first(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Each ``(samples, positions, embed_dim)``; one tensor thrice stays one."""
        if any(x.is_nested for x in inputs):
            raise self._error(
                "the input is nested; pad it and give key_padding_mask (an nn.TransformerEncoder "
                "does so with use_nested_tensor=False)"
            )
        query, key, value = inputs
        shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
        if query.dim() not in (2, 3) or key.dim() != query.dim() or key.shape != value.shape:
            raise self._error(
                f"query, key and value are {shapes}; give two dimensions, positions and features, "
                "or three, with samples, and as many values as keys"
            )
        if query.dim() == 2:
            moved = [x[None] for x in inputs]
        else:
            moved = [x if self.batch_first else x.transpose(0, 1) for x in inputs]
        if moved[0].shape[0] != moved[1].shape[0]:  # `len` would fix it in a graph
            raise self._error(
                f"query, key and value are {shapes} with batch_first={self.batch_first}; give as "
                "many samples of each"
            )
        return (moved[0],) * 3 if key is query and value is query else tuple(moved)

    def _additive(
        self, name: str, mask: Tensor | None, shapes: list[tuple[int, ...]], dtype: torch.dtype
    ) -> Tensor | None:
        """A mask that is added to scores; a bool one is true where nothing is attended to."""
        if mask is None:
            return None
        if tuple(mask.shape) not in shapes:
            allowed = " or ".join(map(str, shapes))
            raise self._error(f"{name} is {tuple(mask.shape)}; give one of shape {allowed}")
        if mask.is_floating_point():
            return mask
        if mask.dtype != torch.bool:
            raise self._error(f"{name} is of {mask.dtype}; give a bool or floating point mask")
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)

    def _error(self, what: str) -> InputValueError:
        return InputValueError(f"{type(self).__name__}: {what}.")

    def _projected(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The heads of query, key and value, each ``(samples, num_heads, positions, size)``.

        Keys and values have the positions that are added to them.
        """
        weight, bias = self.rounded_weight(), self.rounded_bias()
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        rounded = self._rounded_inputs(*inputs)
        query, key, value = map(functional.linear, rounded, weight.chunk(3), biases)
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat([key, self.bias_k.expand(key.shape[0], -1, -1)], 1)
            value = torch.cat([value, self.bias_v.expand(value.shape[0], -1, -1)], 1)
        if self.add_zero_attn:
            key, value = (functional.pad(x, (0, 0, 0, 1)) for x in (key, value))
        heads = (x.unflatten(-1, (self.num_heads, -1)) for x in (query, key, value))
        return tuple(x.transpose(1, 2) for x in heads)

    def _rounded_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if key is query and value is query:
            return (self.rounded_input(query),) * 3
        fmt = self.formats.input
        if fmt is not None and self.enabled and self.training:
            # Now, because the first that is rounded by itself would decide the scales of all.
            self._fitted_scales("input", fmt, torch.cat((query, key, value), 1))
        return tuple(self.rounded_input(x) for x in (query, key, value))

    def extra_repr(self) -> str:
        """The size, then the formats."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, {self.formats}"

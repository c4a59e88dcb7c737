"""Layers that compute with rounded numbers."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_adls.formats import NumberFormat


@dataclass(frozen=True)
class LinearFormats:
    """The number format of each tensor of a linear layer; None leaves a tensor as it is.

    Args:
        input: Rounds the input, whose last dimension is ``in_features``.
        weight: Rounds the weight, ``(out_features, in_features)``.
        bias: Rounds the bias, ``(out_features,)``.
    """

    input: NumberFormat | None = None
    weight: NumberFormat | None = None
    bias: NumberFormat | None = None

    def __str__(self) -> str:
        return f"input={self.input}, weight={self.weight}, bias={self.bias}"


class QuantizedLinear(nn.Linear):
    """A linear layer that rounds its input, weight and bias to number formats.

    The parameters stay in full precision and keep the names of ``nn.Linear``, so that state dicts
    pass between the two; gradients reach them straight through the rounding. The sparsity mask is
    applied after rounding, because some formats cannot hold zero. While nothing trains (``eval()``
    and no gradient asked for) the rounded weight is kept until the weight changes. Writing through
    ``weight.data`` is the one change that cannot be seen then: call ``train()`` or ``eval()`` after
    it.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether the layer adds a bias.
        formats: What each tensor is rounded to.
        device: Where the parameters lie.
        dtype: Of the parameters.

    Example:
        >>> from lightning_adls.formats import Integer
        >>> formats = LinearFormats(weight=Integer(width=4, frac_width=2))
        >>> layer = QuantizedLinear(4, 2, formats=formats)
        >>> layer(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    weight_mask: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        formats: LinearFormats,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.formats = formats
        # True where a weight is kept. A buffer, so that checkpoints carry it.
        self.register_buffer("weight_mask", None)
        self._rounded: tuple[tuple[Any, ...], Tensor] | None = None
        scales = formats.input.initial_scales() if formats.input else None
        self.input_scales = None if scales is None else nn.Parameter(scales)

    @classmethod
    def from_linear(cls, linear: nn.Linear, formats: LinearFormats) -> Self:
        """A layer on the SAME parameters as ``linear``, in the same mode, with the same mask."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            formats=formats,
            device="meta",  # nothing is allocated or drawn: the parameters are replaced below
            dtype=linear.weight.dtype,
        )
        layer.weight = linear.weight
        layer.bias = linear.bias
        if layer.input_scales is not None:
            layer.input_scales = nn.Parameter(layer.input_scales.to(linear.weight.device))
        if isinstance(linear, QuantizedLinear):
            layer.weight_mask = linear.weight_mask
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving ``(..., out_features)``."""
        formats = self.formats
        if formats.input is not None:
            input = formats.input(input, self.input_scales, training=self.training)
        bias: Tensor | None = self.bias
        if bias is not None and formats.bias is not None:
            bias = formats.bias(bias, training=self.training)
        return nn.functional.linear(input, self.rounded_weight(), bias)

    def rounded_weight(self) -> Tensor:
        """The weight as it is multiplied: rounded, then masked."""
        if (
            self.training
            or (torch.is_grad_enabled() and self.weight.requires_grad)
            or torch.compiler.is_compiling()
            or self.weight.is_inference()  # such tensors do not count their versions
        ):
            return self._round_weight()
        weight, mask = self.weight, self.weight_mask
        # An inference tensor cannot serve a later forward with gradients: keep the two apart.
        state: tuple[Any, ...] = (
            weight._version,
            weight.data_ptr(),
            weight.dtype,
            torch.is_inference_mode_enabled(),
        )
        if mask is not None:
            state += (mask._version, mask.data_ptr())
        if self._rounded is None or self._rounded[0] != state:
            self._rounded = state, self._round_weight()
        return self._rounded[1]

    def _round_weight(self) -> Tensor:
        weight: Tensor = self.weight
        if self.formats.weight is not None:
            weight = self.formats.weight(weight, training=self.training)
        if self.weight_mask is not None:
            weight = weight.masked_fill(~self.weight_mask, 0.0)
        return weight

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and forget the rounded weight."""
        self._rounded = None
        return super().train(mode)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Checkpoints of unquantised models have no mask and no scales; those of pruned ones bring a
        # mask that this layer may not have yet.
        mask = state_dict.get(prefix + "weight_mask")
        if mask is not None and self.weight_mask is None:
            self.weight_mask = torch.ones_like(self.weight, dtype=torch.bool)
        elif mask is None and self.weight_mask is not None:
            state_dict[prefix + "weight_mask"] = self.weight_mask
        if self.input_scales is not None:
            state_dict.setdefault(prefix + "input_scales", self.input_scales.detach())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.formats}"

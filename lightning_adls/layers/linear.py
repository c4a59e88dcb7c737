"""The quantised linear layer."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer that rounds its input, weight and bias; see :class:`QuantizedLayer`.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether the layer adds a bias.
        formats: What each tensor is rounded to.
        device: Where the parameters lie.
        dtype: Of the parameters.

    Example:
        >>> from lightning_adls.formats import Integer
        >>> formats = LayerFormats(weight=Integer(width=4, frac_width=2))
        >>> layer = QuantizedLinear(4, 2, formats=formats)
        >>> layer(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    # The second is the output projection of an attention.
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.Linear,
        NonDynamicallyQuantizableLinear,
    )

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        formats: LayerFormats,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._add_formats(formats)

    @staticmethod
    def arguments_of(layer: nn.Linear) -> dict[str, Any]:
        """Constructor arguments of ``layer``."""
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving ``(..., out_features)``."""
        input = self.rounded_input(input)
        return nn.functional.linear(input, self.rounded_weight(), self.rounded_bias())

"""Quantised convolutions."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer


class QuantizedConv(QuantizedLayer):
    """What the convolutions share: how they are built from a plain one, and their forward."""

    def __init__(self, *args: Any, formats: LayerFormats, **kwargs: Any) -> None:
        # The plain convolution: the class after this one in the method resolution order.
        super(QuantizedLayer, self).__init__(*args, **kwargs)
        self._add_formats(formats)

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of ``layer``."""
        names = (
            *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
            *("groups", "padding_mode"),
        )
        return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` with the rounded weight."""
        plain: Any = self
        output: Tensor = plain._conv_forward(
            self.rounded_input(input), self.rounded_weight(), self.rounded_bias()
        )
        return output


class QuantizedConv1d(QuantizedConv, nn.Conv1d):
    """``nn.Conv1d`` that rounds its input, weight and bias; see :class:`QuantizedLayer`.

    Takes the arguments of ``nn.Conv1d`` and ``formats``. Blocks of the input run along its
    channels, those of the weight along ``in_channels / groups * kernel_size``.

    Example:
        >>> import torch
        >>> from lightning_adls.formats import MXInt
        >>> layer = QuantizedConv1d(8, 4, kernel_size=3, formats=LayerFormats(weight=MXInt()))
        >>> layer(torch.ones(2, 8, 10)).shape
        torch.Size([2, 4, 8])
    """

    kind: ClassVar[str] = "Conv1d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv1d,)
    feature_dim: ClassVar[int] = -2


class QuantizedConv2d(QuantizedConv, nn.Conv2d):
    """``nn.Conv2d`` that rounds its input, weight and bias; see :class:`QuantizedLayer`.

    Takes the arguments of ``nn.Conv2d`` and ``formats``. Blocks of the input run along its
    channels, those of the weight along ``in_channels / groups * height * width``.

    Example:
        >>> import torch
        >>> from lightning_adls.formats import MXInt
        >>> layer = QuantizedConv2d(8, 4, kernel_size=3, formats=LayerFormats(weight=MXInt()))
        >>> layer(torch.ones(2, 8, 10, 10)).shape
        torch.Size([2, 4, 8, 8])
    """

    kind: ClassVar[str] = "Conv2d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d,)
    feature_dim: ClassVar[int] = -3


class QuantizedConv3d(QuantizedConv, nn.Conv3d):
    """``nn.Conv3d`` that rounds its input, weight and bias; see :class:`QuantizedLayer`.

    Takes the arguments of ``nn.Conv3d`` and ``formats``. Blocks of the input run along its
    channels, those of the weight along ``in_channels / groups * depth * height * width``.
    """

    kind: ClassVar[str] = "Conv3d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv3d,)
    feature_dim: ClassVar[int] = -4

"""Quantised transposed convolutions."""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lightning_adls.layers.coded_weight import RowOrder
from lightning_adls.layers.conv import QuantizedConv

_CONVOLVE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class _QuantizedConvTranspose(QuantizedConv):
    """What the transposed convolutions share.

    Their weight has the shape ``(in_channels, out_channels / groups, *kernel)``. An output of
    channel ``o`` sums over the input channels of the group of ``o`` and over taps of the kernel,
    which of them its position decides. So a row is all that outputs of one channel sum over, in
    the order of a convolution: ``(out_channels, in_channels / groups * kernel)``.
    """

    groups: int

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of ``layer``."""
        return {**QuantizedConv.arguments_of(layer), "output_padding": layer.output_padding}

    def to_rows(self, weight: Tensor) -> Tensor:
        """The weight as a matrix of shape ``(out_channels, in_channels / groups * kernel)``."""
        grouped: Tensor = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        rows: Tensor = grouped.flatten(0, 1).flatten(1)
        return rows

    def row_order(self) -> RowOrder:
        """How what :meth:`to_rows` made becomes the weight again."""
        channels, *others = shape = tuple(self._weight().shape)
        grouped = (self.groups, others[0], channels // self.groups, *others[1:])
        return RowOrder(grouped, (0, 2, 1, *range(3, len(grouped))), shape)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve ``input`` with the rounded weight; ``output_size`` as in the plain layer."""
        plain: Any = self
        dimensions = len(plain.kernel_size)
        output_padding = plain._output_padding(
            *(input, output_size, plain.stride, plain.padding, plain.kernel_size),
            *(dimensions, plain.dilation),
        )
        output: Tensor = _CONVOLVE[dimensions](
            *(self.rounded_input(input), self.rounded_weight(), self.rounded_bias()),
            *(plain.stride, plain.padding, output_padding, plain.groups, plain.dilation),
        )
        return output


class QuantizedConvTranspose1d(_QuantizedConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` that rounds its input, weight and bias; see :class:`QuantizedLayer`.

    Takes the arguments of ``nn.ConvTranspose1d`` and ``formats``. Blocks of the input run along
    its channels, those of the weight along what the outputs of a channel sum over: the
    ``in_channels / groups`` channels of its group, each with its ``kernel_size`` taps.

    Example:
        >>> import torch
        >>> from lightning_adls.formats import MXInt
        >>> from lightning_adls.layers import LayerFormats
        >>> formats = LayerFormats(weight=MXInt())
        >>> layer = QuantizedConvTranspose1d(8, 4, kernel_size=2, stride=2, formats=formats)
        >>> layer(torch.ones(2, 8, 10)).shape
        torch.Size([2, 4, 20])
        >>> layer.to_rows(layer.weight).shape
        torch.Size([4, 16])
    """

    kind: ClassVar[str] = "ConvTranspose1d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.ConvTranspose1d,)
    feature_dim: ClassVar[int] = -2


class QuantizedConvTranspose2d(_QuantizedConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` that rounds as :class:`QuantizedConvTranspose1d` does.

    Takes the arguments of ``nn.ConvTranspose2d`` and ``formats``. Rows of the weight are
    ``in_channels / groups * height * width`` long.
    """

    kind: ClassVar[str] = "ConvTranspose2d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.ConvTranspose2d,)
    feature_dim: ClassVar[int] = -3


class QuantizedConvTranspose3d(_QuantizedConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` that rounds as :class:`QuantizedConvTranspose1d` does.

    Takes the arguments of ``nn.ConvTranspose3d`` and ``formats``. Rows of the weight are
    ``in_channels / groups * depth * height * width`` long.
    """

    kind: ClassVar[str] = "ConvTranspose3d"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.ConvTranspose3d,)
    feature_dim: ClassVar[int] = -4

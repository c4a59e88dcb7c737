"""The linear layer that keeps its weight packed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import MXInt, NumberFormat
from lightning_adls.kernels import dequantize, exponents_shape, quantize
from lightning_adls.layers.carrying import check_replaceable
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.packed_weight import PackedWeight
from lightning_adls.layers.quantized_layer import QuantizedLayer


class PackedLinear(QuantizedLayer):
    """A linear layer whose weight is kept in MXINT8 and unpacked each time it is multiplied.

    Computes what a :class:`QuantizedLinear` of weight format ``MXInt(width=8)`` computes in eval
    mode, bit for bit, from a quarter of the bytes; while it multiplies, the unpacked weight exists
    beside the packed one. Input and bias are rounded as in a quantised layer, and ``enabled`` is
    about those two alone.

    For inference: the weight gets no gradient, in train mode neither, and another one cannot be
    assigned. The bias and what comes before the layer can still be trained. State dicts hold the
    codes and exponents.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether the layer adds a bias.
        formats: What input and bias are rounded to; the weight's is ``MXInt(width=8)``.
        device: Where the tensors lie.
        dtype: Of the bias, and of ``weight`` where it is read.

    Attributes:
        weight: A parameter of the unpacked weight's shape, which takes the memory of the packed
            one; see :class:`PackedWeight`.
        codes: int8, shape ``(out_features, in_features)``, all 0 in a new layer.
        exponents: uint8, shape ``(out_features, in_features / 32)``, rounded up.

    Raises:
        ValueError: If the weight has another format.

    Example:
        >>> layer = PackedLinear.from_linear(nn.Linear(64, 2))
        >>> layer.weight.shape, layer.weight.nbytes
        (torch.Size([2, 64]), 132)
        >>> layer(torch.ones(3, 64)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        formats: LayerFormats | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        formats = formats or LayerFormats(weight=MXInt(width=8))
        if not _is_mxint8(formats.weight):
            raise InputValueError(
                f"PackedLinear: formats.weight={formats.weight} cannot be packed; "
                "MXInt(width=8, block_size=32) can."
            )
        self.in_features = in_features
        self.out_features = out_features
        shape = torch.Size((out_features, in_features))
        codes = torch.zeros(shape, dtype=torch.int8, device=device)
        exponents = torch.zeros(exponents_shape(shape), dtype=torch.uint8, device=device)
        self._pack(codes, exponents, dtype or torch.get_default_dtype(), grad=False)
        values = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if values is None else nn.Parameter(values))
        self._add_formats(formats)

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of a linear layer."""
        return QuantizedLinear.arguments_of(layer)

    @classmethod
    def from_linear(cls, linear: nn.Module) -> Self:
        """Pack the weight of ``linear``; the bias stays the SAME parameter.

        Args:
            linear: An ``nn.Linear``, or a :class:`QuantizedLinear` whose weight has the format
                ``MXInt(width=8, block_size=32)`` or none. A mask becomes zeros in the weight, and
                the formats and learned scales of input and bias are kept.

        Raises:
            ValueError: If it is another layer, its weight has another format or holds a NaN.
        """
        if type(linear) not in (*QuantizedLinear.plain_types, QuantizedLinear):
            raise InputValueError(
                f"PackedLinear: linear={type(linear).__name__} cannot be packed; "
                "nn.Linear and QuantizedLinear can."
            )
        old = linear.formats if isinstance(linear, QuantizedLinear) else LayerFormats()
        weight = old.weight or MXInt(width=8)
        return cls.from_layer(linear, LayerFormats(old.input, weight, old.bias))

    @classmethod
    def from_layer(cls, layer: nn.Module, formats: LayerFormats) -> Self:
        """Pack the weight of ``layer`` as :meth:`from_linear` does, with formats of your choice."""
        linear = QuantizedLinear.from_layer(layer, formats)
        arguments = QuantizedLinear.arguments_of(linear)
        new = cls(**arguments, formats=formats, device="meta", dtype=linear.weight.dtype)
        codes, exponents = quantize(linear.weight)
        if linear.weight_mask is not None:
            # Blocks keep the exponents that they have with the masked weights, as when rounding.
            codes.masked_fill_(~linear.weight_mask, 0)
        new._pack(codes, exponents, linear.weight.dtype, grad=False)
        new.bias = linear.bias
        new._take_over(linear)
        new.weight_mask = None
        check_replaceable(layer, new)
        return new.train(linear.training)

    @property
    def codes(self) -> Tensor:
        """int8, shape ``(out_features, in_features)``, all 0 in a new layer."""
        return self._part("codes")

    @property
    def exponents(self) -> Tensor:
        """uint8, shape ``(out_features, in_features / 32)``, rounded up."""
        return self._part("exponents")

    def _part(self, name: str) -> Tensor:
        weight, buffer = self._parameters["weight"], self._buffers.get(name)
        part: Tensor = getattr(weight, name) if buffer is None else buffer
        return part

    def _pack(self, codes: Tensor, exponents: Tensor, dtype: torch.dtype, grad: bool) -> None:
        weight = PackedWeight(codes, exponents, dtype)
        self._parameters["weight"] = nn.Parameter(weight, requires_grad=grad)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise InputValueError(
                "PackedLinear: weight is packed and cannot be assigned; change the model before "
                "packing it."
            )
        super().__setattr__(name, value)

    @contextmanager
    def _as_buffers(self) -> Iterator[None]:
        """Let torch move, save and load the packed tensors as buffers in place of the weight."""
        weight: Any = self.weight
        self._parameters["weight"] = None  # keeps its place: optimisers count parameters
        self._buffers.update(codes=weight.codes, exponents=weight.exponents)
        try:
            yield
        finally:
            parts: list[Any] = [self._buffers.pop(name) for name in ("codes", "exponents")]
            if parts[0] is weight.codes and parts[1] is weight.exponents:
                self._parameters["weight"] = weight
            else:
                self._pack(parts[0], parts[1], weight.dtype, weight.requires_grad)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        old = self.weight
        with self._as_buffers():
            super()._apply(fn, recurse)
        dtype = fn(torch.empty(0, dtype=old.dtype, device=old.device)).dtype
        if dtype != old.dtype:
            self._pack(self.codes, self.exponents, dtype, old.requires_grad)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        with self._as_buffers():
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def rounded_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as it is multiplied, unpacked anew, shape ``(out_features, in_features)``."""
        return dequantize(self.codes, self.exponents, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, in its data type."""
        bias = self.rounded_bias()
        return nn.functional.linear(
            self.rounded_input(input),
            self.rounded_weight(input.dtype),
            None if bias is None else bias.to(input.dtype),
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}weight" in state_dict:
            raise InputValueError(
                f"PackedLinear: {prefix}weight is not packed; load the checkpoint into the model "
                "before packing it."
            )
        with self._as_buffers():
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments of a plain linear layer, then the formats."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self.formats}"
        )


def _is_mxint8(fmt: NumberFormat | None) -> bool:
    return isinstance(fmt, MXInt) and (fmt.width, fmt.block_size) == (8, 32)

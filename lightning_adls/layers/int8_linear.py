"""The linear layer that multiplies integers of 8 bits."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, LearnedInteger, NumberFormat
from lightning_adls.kernels.int8 import COLUMNS, Rounding, int8_linear, pack
from lightning_adls.layers.kinds import formats_of, is_kind
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer

# Sums of products times both steps have to be normal numbers of float32.
_LEAST, _MOST = 2.0**-126, 2.0**90


class Int8Linear(nn.Module):
    """Computes what a quantised linear layer computes in eval mode, by int8 products on the CPU.

    The input is rounded to integers as its format says, and multiplied with those of the weight in
    int32, which is exact. So outputs differ from the quantised layer's as sums of float32 do that
    are taken in another order, and are the same from call to call. A NaN of the input becomes the
    smallest integer.

    For inference on the CPU: it has no parameters, no gradients, and no train mode.

    Attributes:
        codes: int8, shape ``(out_features, in_features)``, the integers of the weight.
        bias: float32, padded with zeros to a multiple of 16.
        steps: float32, shape ``(2,)``: what an integer of the input stands for, and of the weight.
        engine: What multiplies, see :func:`lightning_adls.kernels.int8.fastest_engine`.
    """

    codes: Tensor
    bias: Tensor
    steps: Tensor
    packed: Tensor

    def __init__(
        self, codes: Tensor, bias: Tensor | None, steps: Tensor, formats: LayerFormats, engine: str
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.formats, self.engine = formats, engine
        self._rounding = _rounding(formats.input)
        if bias is None:
            bias = torch.zeros(self.out_features)
        self.register_buffer("codes", codes)
        padded = functional.pad(bias.float(), (0, -self.out_features % COLUMNS))
        self.register_buffer("bias", padded)
        self.register_buffer("steps", steps)
        self.register_buffer("packed", pack(codes, engine), persistent=False)
        self.eval()

    @classmethod
    @torch.no_grad()
    def of(cls, layer: QuantizedLayer, engine: str) -> Self:
        """Of a layer for which :func:`reason_against` gives none, in eval mode."""
        steps = [_step(layer, role) for role in ("input", "weight")]
        rows = layer.to_rows(layer.rounded_weight()).double()
        codes = (rows / steps[1]).round_().to(torch.int8)
        return cls(codes, layer.rounded_bias(), torch.tensor(steps), layer.formats, engine)

    @property
    def weight(self) -> Tensor:
        """The rounded weight, made anew, float32, shape ``(out_features, in_features)``."""
        return self.codes * self.steps[1]

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving its dtype."""
        output = int8_linear(
            *(input.float(), self.packed, self.bias, self.steps, self._rounding),
            *(self.out_features, self.engine),
        )
        return output.to(input.dtype)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode.

        Raises:
            ValueError: If train mode is asked for.
        """
        if mode:
            raise InputValueError(
                "Int8Linear: mode=True is not for lowered layers, which have no gradients; train "
                "the model that was lowered, and lower it again."
            )
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Codes and steps are what they are: `half` and the like are for the layers around.
        if fn(torch.empty(0)).device.type != "cpu":
            raise InputValueError(
                "Int8Linear: lowered layers compute on the CPU alone; move the model that was "
                "lowered."
            )
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.packed = pack(self.codes, self.engine)

    def extra_repr(self) -> str:
        """The size, then the formats."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.formats}, "
            f"engine={self.engine}"
        )


def reason_against(layer: nn.Module) -> str | None:
    """Why a linear layer cannot be lowered, in a few words; None if it can."""
    if not isinstance(layer, QuantizedLayer) or not layer.has_recipe:
        return "nothing is rounded"
    if layer.backend != "standard":
        return f"the arithmetic is that of {layer.backend}"
    if not any(is_kind(layer, kind) for kind in ("Linear", "TransformersConv1D")):
        return f"{layer.kind} is no linear layer"
    if not layer.enabled:
        return "rounding is switched off"
    for role in ("input", "weight"):
        if (reason := _reason_of(role, getattr(formats_of(layer), role))) is not None:
            return reason
    if layer.input_sparsity:
        return "features of the input are set to zero"
    weight: Tensor = getattr(layer, layer.weight_name)
    if weight.device.type != "cpu":
        return f"the weight lies on {weight.device}"
    if weight.dtype == torch.float64:
        return "it computes in float64"
    for role in ("input", "weight"):
        if (fitted := layer.fitted_of(role)) is not None and not fitted > 0:
            return f"the learned scale of the {role} is not fitted"
    if not _LEAST <= _step(layer, "input") * _step(layer, "weight") <= _MOST:
        return "products of the steps leave the range of float32"
    return None


def _reason_of(role: str, fmt: NumberFormat | None) -> str | None:
    if fmt is None:
        return f"the {role} is not rounded"
    if not isinstance(fmt, Integer | LearnedInteger):
        return f"the {role} is rounded to {fmt}, no integers of one step"
    if fmt.width > 8:
        return f"the {role} has {fmt.width} bits, more than 8"
    if role == "weight" and fmt.width == 8 and not fmt.signed:
        return "the weight has 8 bits without a sign"
    return None


def _rounding(fmt: NumberFormat | None) -> Rounding:
    assert isinstance(fmt, Integer | LearnedInteger)
    bits = fmt.width - fmt.signed
    down = isinstance(fmt, Integer) and fmt.rounding == "floor"
    return Rounding(-(2**bits) if fmt.signed else 0, 2**bits - 1, down)


def _step(layer: QuantizedLayer, role: str) -> float:
    """What an integer of the input or the weight stands for."""
    fmt = getattr(layer.formats, role)
    if isinstance(fmt, Integer):
        return float(2.0**-fmt.frac_width)
    shared = fmt.encode(torch.zeros(1), layer.scales_of(role)).shared
    return float(shared)

"""The linear layer that multiplies integers of 8 bits."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_adls.errors import InputValueError
from lightning_adls.formats import BlockFP, Integer, LearnedInteger, MXInt, NumberFormat
from lightning_adls.formats.blocks import block_max, merge, split, tile
from lightning_adls.kernels.int8 import (
    COLUMNS,
    BlockRounding,
    Rounding,
    int8_block_linear,
    int8_linear,
    pack,
    pack_steps,
)
from lightning_adls.layers.kinds import formats_of, is_kind
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer

# Sums of products times both steps have to be normal numbers of float32.
_LEAST, _MOST = 2.0**-126, 2.0**90
_BLOCKS = (MXInt, BlockFP)
# Of blocks: sums of fewer products are not worth what follows each block.
_SMALLEST = 16


class LoweredLinear(nn.Module):
    """A linear layer that multiplies integers of at most 8 bits, for inference on the CPU.

    It has no parameters, no gradients, and no train mode.

    Attributes:
        codes: int8, shape ``(out_features, in_features)``, the integers of the weight.
        bias: float32, padded with zeros to a multiple of 16.
        engine: What multiplies, see :func:`lightning_adls.kernels.int8.fastest_engine`.
    """

    codes: Tensor
    bias: Tensor
    packed: Tensor

    def __init__(
        self, codes: Tensor, bias: Tensor | None, formats: LayerFormats, engine: str
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.formats, self.engine = formats, engine
        if bias is None:
            bias = torch.zeros(self.out_features)
        self.register_buffer("codes", codes)
        padded = functional.pad(bias.float(), (0, -self.out_features % COLUMNS))
        self.register_buffer("bias", padded)
        self.register_buffer("packed", pack(codes, engine), persistent=False)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The rounded weight, made anew, float32, shape ``(out_features, in_features)``."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode.

        Raises:
            ValueError: If train mode is asked for.
        """
        if mode:
            raise InputValueError(
                f"{type(self).__name__}: mode=True is not for lowered layers, which have no "
                "gradients; train the model that was lowered, and lower it again."
            )
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Codes and steps are what they are: `half` and the like are for the layers around.
        if fn(torch.empty(0)).device.type != "cpu":
            raise InputValueError(
                f"{type(self).__name__}: lowered layers compute on the CPU alone; move the model "
                "that was lowered."
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


class Int8Linear(LoweredLinear):
    """Computes what a linear layer of ``Integer`` and ``LearnedInteger`` computes in eval mode.

    The input is rounded to integers as its format says, and multiplied with those of the weight in
    int32, which is exact. So outputs differ from the quantised layer's as sums of float32 do that
    are taken in another order, and are the same from call to call. A NaN of the input becomes the
    smallest integer.

    Attributes:
        steps: float32, shape ``(2,)``: what an integer of the input stands for, and of the weight.
    """

    steps: Tensor

    def __init__(
        self, codes: Tensor, bias: Tensor | None, steps: Tensor, formats: LayerFormats, engine: str
    ) -> None:
        super().__init__(codes, bias, formats, engine)
        self._rounding = _rounding(formats.input)
        self.register_buffer("steps", steps)

    @classmethod
    @torch.no_grad()
    def of(cls, layer: QuantizedLayer, engine: str) -> Self:
        """Of a layer in eval mode."""
        steps = [_step(layer, role) for role in ("input", "weight")]
        rows = layer.to_rows(layer.rounded_weight()).double()
        codes = (rows / steps[1]).round_().to(torch.int8)
        return cls(codes, layer.rounded_bias(), torch.tensor(steps), layer.formats, engine)

    @property
    def weight(self) -> Tensor:
        return self.codes * self.steps[1]

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving its dtype."""
        output = int8_linear(
            *(input.float(), self.packed, self.bias, self.steps, self._rounding),
            *(self.out_features, self.engine),
        )
        return output.to(input.dtype)


class Int8BlockLinear(LoweredLinear):
    """Computes what a linear layer of ``MXInt`` and ``BlockFP`` computes in eval mode.

    Each block of an input is rounded to integers as its format says. Sums of products within a
    block are exact; blocks are added in float32. A NaN becomes the smallest integer; it does not
    decide the scale of its block, as in the format.

    Attributes:
        steps: float32, shape ``(out_features, blocks)``: what an integer of the weight stands for.
    """

    steps: Tensor
    packed_steps: Tensor

    def __init__(
        self, codes: Tensor, bias: Tensor | None, steps: Tensor, formats: LayerFormats
    ) -> None:
        super().__init__(codes, bias, formats, "avx2")
        fmt = formats.input
        assert isinstance(fmt, MXInt | BlockFP)
        self._rounding = BlockRounding(_size(fmt, self.in_features), *_exponents(fmt), fmt.width)
        self.register_buffer("steps", steps)
        self.register_buffer("packed_steps", pack_steps(steps), persistent=False)

    @classmethod
    @torch.no_grad()
    def of(cls, layer: QuantizedLayer) -> Self:
        """Of a layer in eval mode."""
        fmt = layer.formats.weight
        assert isinstance(fmt, MXInt | BlockFP)
        rows = layer.to_rows(layer.rounded_weight()).double()
        # Of the rounded weight: where a mask hides the largest, finer steps hold the others too.
        blocks = split(rows, fmt.block_size)
        steps = fmt.scale(block_max(blocks)) * 2.0 ** (2 - fmt.width)
        codes = merge(blocks / steps, rows.shape).round_().to(torch.int8)
        each = steps.flatten(1).float()
        return cls(codes, layer.rounded_bias(), each, layer.formats)

    @property
    def weight(self) -> Tensor:
        steps = self.steps.repeat_interleave(self._rounding.size, 1)
        return self.codes * steps[:, : self.in_features]

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving its dtype."""
        output = int8_block_linear(
            *(input.float(), self.packed, self.bias, self.packed_steps),
            *(self._rounding, self.out_features),
        )
        return output.to(input.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.packed_steps = pack_steps(self.steps)


def lowered(layer: QuantizedLayer, engine: str) -> LoweredLinear:
    """A layer for which :func:`reason_against` gives none, by integer products, in eval mode."""
    if isinstance(layer.formats.input, MXInt | BlockFP):
        return Int8BlockLinear.of(layer)
    return Int8Linear.of(layer, engine)


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
    formats = formats_of(layer)
    for role in ("input", "weight"):
        if (reason := _reason_of(role, getattr(formats, role))) is not None:
            return reason
    if layer.input_sparsity:
        return "features of the input are set to zero"
    weight: Tensor = getattr(layer, layer.weight_name)
    if weight.device.type != "cpu":
        return f"the weight lies on {weight.device}"
    if weight.dtype == torch.float64:
        return "it computes in float64"
    if isinstance(formats.input, _BLOCKS) or isinstance(formats.weight, _BLOCKS):
        return _reason_of_blocks(formats, layer.to_rows(weight).shape[1])
    for role in ("input", "weight"):
        if (fitted := layer.fitted_of(role)) is not None and not fitted > 0:
            return f"the learned scale of the {role} is not fitted"
    if not _LEAST <= _step(layer, "input") * _step(layer, "weight") <= _MOST:
        return "products of the steps leave the range of float32"
    return None


def _reason_of(role: str, fmt: NumberFormat | None) -> str | None:
    if fmt is None:
        return f"the {role} is not rounded"
    if not isinstance(fmt, Integer | LearnedInteger | MXInt | BlockFP):
        return f"the {role} is rounded to {fmt}, no integers"
    if fmt.width > 8:
        return f"the {role} has {fmt.width} bits, more than 8"
    if role == "weight" and fmt.width == 8 and not getattr(fmt, "signed", True):
        return "the weight has 8 bits without a sign"
    return None


def _reason_of_blocks(formats: LayerFormats, inner: int) -> str | None:
    first, second = formats.input, formats.weight
    if not isinstance(first, _BLOCKS) or not isinstance(second, _BLOCKS):
        return "one of input and weight has blocks, and the other has none"
    sizes = {_size(first, inner), _size(second, inner)}
    if sizes == {0}:
        return "blocks are tiles of several rows"
    if len(sizes) > 1:
        return "blocks of input and weight are not of one size"
    if (size := sizes.pop()) < _SMALLEST or (size % 2 and size < inner):
        return f"blocks have {size} numbers; an even number of at least {_SMALLEST} pays"
    return None


def _size(fmt: MXInt | BlockFP, inner: int) -> int:
    """Numbers of a block of a row; 0 if it has several rows."""
    rows, columns = tile((2, inner), fmt.block_size)
    return 0 if rows > 1 else min(columns, inner)


def _exponents(fmt: MXInt | BlockFP) -> tuple[int, int]:
    """The smallest and largest exponent of a block's scale."""
    ends = torch.tensor([0.0, torch.finfo(torch.float32).max])
    lowest, highest = torch.frexp(fmt.scale(ends)).exponent.tolist()
    return max(lowest - 1, -127), highest - 1


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

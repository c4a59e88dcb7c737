"""Integers in ONNX: QuantizeLinear and DequantizeLinear, to be traced in place of a format."""

from typing import cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Integer, LearnedInteger, NumberFormat
from lightning_adls.formats.base import narrow, widen
from lightning_adls.formats.codes import from_twos_complement
from lightning_adls.layers import ROLES, QuantizedLayer

OPSET = 21
"""Of the graphs: the first with integers of 4 and 16 bits."""

NIBBLES = "nibbles"
"""What integers of at most 4 bits are called, which torch cannot hold in less than 8."""

_DTYPES = {
    True: ((8, torch.int8), (16, torch.int16)),
    False: ((8, torch.uint8), (16, torch.uint16)),
}


def dtype_of(fmt: NumberFormat | None) -> torch.dtype | None:
    """What holds the integers of a format; None if it has none, or they need more than 16 bits."""
    if not isinstance(fmt, Integer | LearnedInteger):
        return None
    fitting = (dtype for bits, dtype in _DTYPES[fmt.signed] if fmt.width <= bits)
    return next(fitting, None)


def held_steps(layer: QuantizedLayer) -> dict[str, nn.Module]:
    """By ``input``, ``weight`` and ``bias``, what has them in integers; what cannot be is left out.

    That is each of a standard layer, of float32 or less, in the format ``Integer`` or
    ``LearnedInteger`` of at most 16 bits.
    """
    if layer.backend != "standard" or not layer.enabled or layer._weight().dtype == torch.float64:
        return {}
    held: dict[str, nn.Module] = {}
    for role in ROLES:
        fmt: NumberFormat | None = getattr(layer.formats, role)
        if fmt is None or dtype_of(fmt) is None:
            continue
        if role == "input":
            held[role] = _Rounding(fmt, layer.scales_of(role))
        elif role == "weight":
            held[role] = _weight(layer, fmt)
        elif (bias := layer._parameters.get(layer.bias_name)) is not None:
            held[role] = _Constant(fmt, *_integers(layer, role, fmt, bias), bias.dtype)
    return held


def check_finite(name: str, layer: QuantizedLayer, who: str) -> None:
    """Refuse a weight or a bias that integers cannot be had of.

    Raises:
        ValueError: If there is a NaN in it.
    """
    for parameter in (layer.weight_name, layer.bias_name):
        values = layer._parameters.get(parameter)
        if values is not None and bool(values.isnan().any()):
            raise InputValueError(
                f"{who}: layer {name!r} of {layer.formats} has a NaN in its {parameter}, which no "
                "integer stands for; train it anew."
            )


def _weight(layer: QuantizedLayer, fmt: NumberFormat) -> "_Constant":
    weight = layer._weight()
    rows, step = _integers(layer, "weight", fmt, layer.to_rows(weight))
    integers = layer.from_rows(rows)
    if layer.weight_mask is not None:
        integers = integers.masked_fill(~layer.weight_mask, 0)
    return _Constant(fmt, integers, step, weight.dtype)


def _integers(
    layer: QuantizedLayer, role: str, fmt: NumberFormat, values: Tensor
) -> tuple[Tensor, Tensor]:
    """What the values are rounded to, int64, and the step, float32 without a dimension."""
    assert isinstance(fmt, Integer | LearnedInteger)
    scales, fitted = layer.scales_of(role), layer.fitted_of(role)
    if scales is not None and fitted is not None and not fitted > 0:
        scales = cast(nn.Parameter, fmt.fit_scales(values))  # as evaluating does
    encoded = fmt.encode(values + 0, scales)  # of weights in codes, their values
    codes = encoded.codes
    integers = from_twos_complement(codes, fmt.width) if fmt.signed else codes
    return integers, _step(fmt, scales)


def _step(fmt: NumberFormat, scales: Tensor | None) -> Tensor:
    if isinstance(fmt, Integer):
        return torch.tensor(2.0**-fmt.frac_width)
    assert isinstance(fmt, LearnedInteger)
    return fmt.step(torch.zeros(()), scales).detach().clone()


class _Constant(nn.Module):
    """Integers times a step: DequantizeLinear."""

    step: Tensor

    def __init__(
        self, fmt: NumberFormat, integers: Tensor, step: Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.name = NIBBLES if fmt.code_bits <= 4 else "integers"
        self.register_buffer(self.name, integers.to(dtype_of(fmt)))
        self.register_buffer("step", step)
        self.dtype = dtype

    def forward(self) -> Tensor:
        integers = self.get_buffer(self.name)
        values = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (integers, self.step),
            dtype=torch.float32,
            shape=integers.shape,
            version=OPSET,
        )
        return narrow(values, self.dtype)


class _Rounding(nn.Module):
    """The next integers, saturating, times a step: QuantizeLinear and DequantizeLinear."""

    step: Tensor
    zero: Tensor

    def __init__(self, fmt: NumberFormat, scales: Tensor | None) -> None:
        super().__init__()
        dtype = dtype_of(fmt)
        assert isinstance(fmt, Integer | LearnedInteger)
        assert dtype is not None
        self.fmt = fmt
        self.register_buffer("step", _step(fmt, scales))
        # Says of which type the integers are.
        self.register_buffer("zero", torch.zeros((), dtype=dtype))
        # QuantizeLinear saturates at what the type holds.
        bounds = torch.iinfo(dtype)
        low, high = fmt._range(torch.float32) if isinstance(fmt, Integer) else fmt._range()
        self.bounds: tuple[float, float] | None = None
        if (low, high) != (bounds.min, bounds.max):
            self.bounds = low * float(self.step), high * float(self.step)

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        if isinstance(self.fmt, Integer) and self.fmt.rounding == "floor":
            wide = self.fmt.round(wide)  # to values that QuantizeLinear leaves as they are
        elif self.bounds is not None:
            wide = wide.clamp(*self.bounds)
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear",
            (wide, self.step, self.zero),
            dtype=self.zero.dtype,
            shape=wide.shape,
            version=OPSET,
        )
        values = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (codes, self.step, self.zero),
            dtype=torch.float32,
            shape=wide.shape,
            version=OPSET,
        )
        return narrow(values, x.dtype)

"""MASE's linear layers, computing what MASE's compute, faults included.

They take MASE's arguments and configs. What they are beyond that is a
:class:`~lightning_adls.layers.QuantizedLinear`: ``formats`` says in standard terms what is rounded
to what, masks apply after rounding, and state dicts pass to plain layers and back. All of them
train, also where MASE's do not; gradients pass straight through the rounding.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Binary, ResidualSign
from lightning_adls.layers.kinds import is_kind, quantized
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.mase.configured import ConfiguredLinear, MaseLinear
from lightning_adls.layers.mase.layer_config import config_of_formats
from lightning_adls.layers.mase.quantizers import residual_sign
from lightning_adls.layers.quantized_layer import QuantizedLayer


class LinearInteger(MaseLinear):
    """Fixed point (``integer`` or ``fixed``); keys ``width``, ``frac_width`` and ``floor``.

    Example:
        >>> keys = {"width": 4, "frac_width": 2}
        >>> roles = ("data_in", "weight", "bias")
        >>> config = {f"{role}_{key}": value for role in roles for key, value in keys.items()}
        >>> layer = LinearInteger(4, 2, config=config)
        >>> layer(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    mase_kind: ClassVar[str] = "integer"


class LinearMinifloatDenorm(MaseLinear):
    """Minifloats without a leading one; keys ``width``, ``exponent_width``, ``exponent_bias``.

    A power of two is rounded down to the next smaller value.
    """

    mase_kind: ClassVar[str] = "minifloat_denorm"


class LinearMinifloatIEEE(MaseLinear):
    """Minifloats with a leading one; keys ``width``, ``exponent_width``, ``exponent_bias``.

    What should round up to the next power of two stays below it, at the largest mantissa.
    """

    mase_kind: ClassVar[str] = "minifloat_ieee"


class LinearLog(MaseLinear):
    """Powers of two; keys ``width``, ``exponent_bias``.

    There is no zero: 0 becomes the smallest positive power.
    """

    mase_kind: ClassVar[str] = "log"


class LinearBlockFP(MaseLinear):
    """Shared exponents; keys ``width``, ``exponent_width``, ``exponent_bias``, ``block_size``.

    A block whose largest magnitude is a power of two rounds that one down.
    """

    mase_kind: ClassVar[str] = "block_fp"


class LinearBlockMinifloat(MaseLinear):
    """Shared biases; keys ``width``, ``exponent_width``, ``exponent_bias_width``, ``block_size``.

    The bias has the wrong sign: blocks of larger magnitudes get a smaller range, and small weights
    become zero. MASE's layer has no gradient, this one has.
    """

    mase_kind: ClassVar[str] = "block_minifloat"


class LinearBlockLog(MaseLinear):
    """Powers of two, shared biases; keys ``width``, ``exponent_bias_width``, ``block_size``."""

    mase_kind: ClassVar[str] = "block_log"


class LinearMXInt(MaseLinear):
    """Integers with a shared scale; keys ``width``, ``block_size``, of the weight at least.

    MASE's layer rounds weight and bias once, when it loads them, has no gradient, and refuses
    tensors whose elements do not divide into blocks. Here the weight is rounded as it is used,
    gradients pass, and the last block may be shorter.
    """

    mase_kind: ClassVar[str] = "mxint"


class LinearBinary(MaseLinear):
    """Weights 1 and -1, without a scale; keys ``stochastic`` and ``bipolar`` of the weight.

    ``stochastic`` rounds at random in training only.
    """

    mase_kind: ClassVar[str] = "binary"


class LinearBinaryScaling(MaseLinear):
    """1 and -1 for input, weight and bias, none of them scaled in spite of the name.

    Keys ``stochastic`` and ``bipolar`` of all three, and ``binary_training``.
    """

    mase_kind: ClassVar[str] = "binary_scaling"

    @classmethod
    def _checked(cls, formats: LayerFormats) -> LayerFormats:
        # MASE rounds the bias whatever a recipe says of it.
        return super()._checked(replace(formats, bias=formats.bias or Binary()))


class LinearBinaryResidualSign(MaseLinear):
    """Inputs as sums of signs, weights as signs times one learned scale.

    ``input_scales`` are MASE's ``means``, ``weight_scales`` its ``gamma``; state dicts with MASE's
    names load, its ``pruning_masks`` as the sparsity mask. Keys ``stochastic`` and ``bipolar`` of
    input and weight, ``binary_training`` and ``data_in_levels``. MASE has 2 or 3 levels (with one
    it computes with the first sample alone); here there may be any number.
    """

    mase_kind: ClassVar[str] = "binary_residual"

    def _add_formats(self, formats: LayerFormats) -> None:
        super()._add_formats(formats)
        if isinstance(formats.input, ResidualSign):
            levels = formats.input.levels
            device = None if self.weight.is_meta else self.weight.device
            total = levels * (levels + 1) / 2
            means = [level / total for level in range(levels, 0, -1)]
            self.input_scales = nn.Parameter(torch.tensor(means, device=device))
            self.weight_scales = nn.Parameter(torch.ones((), device=device))

    def _round(self, role: str, x: Tensor) -> Tensor:
        scales = self.scales_of(role)
        if scales is None or not self.enabled:
            return super()._round(role, x)
        if role == "input":
            return residual_sign(x, scales)
        return super()._round(role, x) * scales.abs().to(x.dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, mases in (("input_scales", "means"), ("weight_scales", "gamma")):
            if f"{prefix}{mases}" in state_dict:
                state_dict[f"{prefix}{name}"] = state_dict.pop(f"{prefix}{mases}")
        mask: Tensor | None = state_dict.pop(f"{prefix}pruning_masks", None)
        if mask is not None and not (mask == 1).all():
            state_dict[f"{prefix}weight_mask"] = mask != 0
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class LinearTernary(ConfiguredLinear):
    """Ternary weights by the standard :class:`~lightning_adls.formats.Ternary`.

    MASE's layer cannot be called: its rounding is written for weights of four dimensions, those of
    convolutions, and fails with the two of a linear layer. There is nothing to be equal to. Key
    ``weight_scaling_factor``; means, medians and maxima are taken from the weight, not the config.
    """

    mase_kind: ClassVar[str] = "ternary"


class LinearMXFP(ConfiguredLinear):
    """OCP floating point blocks by the standard :class:`~lightning_adls.formats.MXFP`.

    MASE's rounding drops the carry into the next binade (1.94 becomes 1.0 in E4M3). That is a
    fault of its bits and no property of a format that one would compare with. Keys
    ``exponent_width``, ``frac_width``, ``block_size``, of the weight at least.
    """

    mase_kind: ClassVar[str] = "mxfp"


_LAYERS: dict[str, type[MaseLinear]] = {
    layer.mase_kind: layer
    for layer in (
        *(LinearInteger, LinearMinifloatDenorm, LinearMinifloatIEEE, LinearLog),
        *(LinearBlockFP, LinearBlockMinifloat, LinearBlockLog, LinearMXInt),
        *(LinearBinary, LinearBinaryScaling, LinearBinaryResidualSign),
    )
}


def mase_layer(layer: nn.Module, formats: LayerFormats) -> QuantizedLayer:
    """A layer that computes as MASE does, on the SAME parameters as ``layer``.

    Args:
        layer: A linear layer, plain or quantised.
        formats: What its tensors are rounded to, as a layer of MASE can; see
            :func:`~lightning_adls.layers.mase.layer_config.config_of_formats`. Where there are
            none, and for Ternary and MXFP, the standard layer is returned.

    Raises:
        ValueError: If it is another kind of layer, or MASE has none for the formats.
    """
    if formats == LayerFormats():
        return quantized(layer, formats)
    if not is_kind(layer, "Linear"):
        raise InputValueError(
            f"mase: layer={type(layer).__name__} is not linear, and only linear layers compute as "
            "MASE does; leave it out of the recipe."
        )
    kind, _ = config_of_formats(formats)
    return (
        _LAYERS[kind].from_layer(layer, formats) if kind in _LAYERS else quantized(layer, formats)
    )

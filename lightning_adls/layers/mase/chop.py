"""The backend "chop": MASE's own linear layers, where MASE's package can be imported.

Written against https://github.com/DeepWok/mase at commit 6ff398cf of April 2026.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.formats import Binary, ResidualSign
from lightning_adls.layers.kinds import is_kind, quantized
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.mase.layer_config import config_of_formats
from lightning_adls.layers.quantized_layer import QuantizedLayer

try:
    # Not `chop` alone: PyPI has another package of that name.
    from chop.nn.quantized.modules import linear as mase
except ImportError as error:
    raise MissingPackageError(
        "backend='chop' needs chop, which is MASE's package (https://github.com/DeepWok/mase) and "
        f"needs an environment of its own, because it pins old versions of others: {error}"
    ) from error

_LAYERS: dict[str, Callable[..., nn.Linear]] = {
    "integer": mase.LinearInteger,
    "minifloat_denorm": mase.LinearMinifloatDenorm,
    "minifloat_ieee": mase.LinearMinifloatIEEE,
    "log": mase.LinearLog,
    "block_fp": mase.LinearBlockFP,
    "block_minifloat": mase.LinearBlockMinifloat,
    "block_log": mase.LinearBlockLog,
    "binary": mase.LinearBinary,
    "binary_scaling": mase.LinearBinaryScaling,
    "binary_residual": mase.LinearBinaryResidualSign,
    "mxint": mase.LinearMXInt,
    "mxfp": mase.LinearMXFP,
}
# These round weight and bias when they load a state dict, and compute without gradients.
_ROUND_LOADED = ("mxint", "mxfp")
_UNTRAINABLE = ("block_minifloat", *_ROUND_LOADED)
# MASE masks before it rounds. Masking afterwards, as is done here, comes to the same only where
# zero stays zero and no element depends on another, or where the layer has a mask of its own.
_MASKABLE = ("integer", "minifloat_denorm", "minifloat_ieee", "binary_residual")
# MASE's names of the scales that it learns.
_LEARNED = {"input": "means", "weight": "gamma"}


class ChopLinear(QuantizedLinear):
    """A linear layer that lets MASE's layer compute; see :class:`QuantizedLinear`.

    ``formats`` says in standard terms what MASE rounds to. What MASE learns besides the weight and
    the bias, its ``means`` and ``gamma``, are ``input_scales`` and ``weight_scales``.

    Raises:
        ValueError: If MASE has no layer for the formats. When called, if its layer has no backward
            and is to train, cannot do with the mask or the input sparsity that were set, or
            refuses a tensor whose elements do not divide into blocks.
    """

    backend: ClassVar[str] = "chop"

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
        kind, config = config_of_formats(formats)
        if kind not in _LAYERS:
            raise InputValueError(
                f"chop: weight={formats.weight} has no linear layer in MASE that can be called; "
                "use backend='standard'."
            )
        if isinstance(formats.input, ResidualSign) and formats.input.levels not in (2, 3):
            raise InputValueError(
                f"chop: input={formats.input} has levels={formats.input.levels}; MASE's layer "
                "computes with 2 or 3 only. Use backend='mase'."
            )
        if kind == "binary_scaling":  # MASE rounds the bias whatever a recipe says of it
            formats = replace(formats, bias=formats.bias or Binary())
        super().__init__(
            in_features, out_features, bias, formats=formats, device=device, dtype=dtype
        )
        self.mase_kind = kind
        # Lends its code and gets its tensors with each call: no part of this module, never moved.
        layer = _LAYERS[kind](in_features, out_features, bias, "meta", config=config)
        self._mase = partial(functional_call, layer)
        for role, name in _LEARNED.items():
            if (start := layer._parameters.get(name)) is not None:
                device = None if self.weight.is_meta else self.weight.device
                setattr(self, f"{role}_scales", nn.Parameter(start.detach().to(device)))

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., in_features)``, giving ``(..., out_features)``."""
        if not self.enabled:
            return super().forward(input)
        self._check_zeros()
        self._check_training()
        try:
            return cast(Tensor, self._mase(self._tensors(), (input,)))
        except AssertionError as error:  # a tensor does not divide into blocks
            raise InputValueError(
                f"chop: MASE's layer for weight={self.formats.weight} refuses: {error} "
                "Use backend='mase'."
            ) from error

    def _take_over(self, layer: QuantizedLayer) -> None:
        super()._take_over(layer)
        self._check_zeros()

    def _check_zeros(self) -> None:
        if self.weight_mask is not None and self.mase_kind not in _MASKABLE:
            raise InputValueError(
                f"chop: weight={self.formats.weight} is rounded after masking in MASE, so that the "
                "pruned weights are not zero, or others change; use backend='mase'."
            )
        if self.input_sparsity:
            raise InputValueError(
                f"chop: input_sparsity={self.input_sparsity} is nothing that MASE's layers can do; "
                "use backend='mase'."
            )

    def _check_training(self) -> None:
        if self.mase_kind in _UNTRAINABLE and self.training and torch.is_grad_enabled():
            raise InputValueError(
                f"chop: weight={self.formats.weight} cannot be trained, because MASE's layer has "
                "no backward; only evaluate it, or use backend='mase'."
            )

    def _tensors(self) -> dict[str, Tensor]:
        """The parameters of MASE's layer."""
        tensors, mask = {"weight": self.weight}, self.weight_mask
        if self.mase_kind == "binary_residual":
            kept = torch.ones_like(self.weight) if mask is None else mask.to(self.weight.dtype)
            tensors["pruning_masks"] = kept
        elif mask is not None:
            tensors["weight"] = self.weight.masked_fill(~mask, 0.0)
        if self.bias is not None:
            tensors["bias"] = self.bias
        scales = {name: self.scales_of(role) for role, name in _LEARNED.items()}
        tensors |= {name: value for name, value in scales.items() if value is not None}
        return self._loaded(tensors) if self.mase_kind in _ROUND_LOADED else tensors

    def _loaded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What MASE's layer makes of tensors that it loads."""
        layer = cast(nn.Linear, deepcopy(self._mase.args[0]))
        layer.to(self.weight.dtype).to_empty(device=self.weight.device).load_state_dict(tensors)
        return dict(layer.named_parameters())

    def _round(self, role: str, x: Tensor) -> Tensor:
        if self.enabled and getattr(self.formats, role) is not None:
            raise InputValueError(
                f"chop: {role}={getattr(self.formats, role)} is rounded within MASE's layer, which "
                "does not show it; use backend='mase'."
            )
        return x


def chop_layer(layer: nn.Module, formats: LayerFormats) -> QuantizedLayer:
    """A layer that computes by MASE's, on the SAME parameters as ``layer``.

    Args:
        layer: A linear layer, plain or quantised.
        formats: What its tensors are rounded to, as a layer of MASE can; see
            :func:`~lightning_adls.layers.mase.layer_config.config_of_formats`. Where there are
            none, the standard layer is returned.

    Raises:
        ValueError: If it is another kind of layer, or MASE has none for the formats.
    """
    if formats == LayerFormats():
        return quantized(layer, formats)
    if not is_kind(layer, "Linear"):
        raise InputValueError(
            f"chop: layer={type(layer).__name__} is not linear, and no other layers of MASE are "
            "used; leave it out of the recipe."
        )
    return ChopLinear.from_layer(layer, formats)

"""What MASE's linear layers have in common: how they are made, and that they round as MASE does."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.linear import QuantizedLinear
from lightning_adls.layers.mase.layer_config import config_of_formats, formats_of_config
from lightning_adls.layers.mase.quantizers import quantize


class ConfiguredLinear(QuantizedLinear):
    """A linear layer with MASE's constructor.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether the layer adds a bias.
        device: Where the parameters lie.
        dtype: Of the parameters.
        config: MASE's keys, see
            :func:`~lightning_adls.layers.mase.layer_config.formats_of_config`; with
            ``bypass: True`` nothing is rounded. It is copied.
        formats: In the place of a config, the formats that it stands for.

    Raises:
        ValueError: If a key is unknown or missing or has a wrong value, or if this layer is not
            the one for the formats.
    """

    # What MASE's passes call it.
    mase_kind: ClassVar[str]
    config: dict[str, Any]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        formats: LayerFormats | None = None,
    ) -> None:
        if config is not None and formats is not None:
            raise InputValueError(f"{type(self).__name__}: config and formats are given; use one.")
        formats = self._formats_of(config) if formats is None else self._checked(formats)
        super().__init__(
            in_features, out_features, bias, formats=formats, device=device, dtype=dtype
        )
        self.config = config_of_formats(formats)[1] if config is None else deepcopy(dict(config))

    @classmethod
    def _formats_of(cls, config: Mapping[str, Any] | None) -> LayerFormats:
        if not isinstance(config, Mapping):
            raise InputValueError(
                f"{cls.__name__}: config={config!r} is not a mapping of MASE's keys."
            )
        keys = dict(config)
        bypass = keys.pop("bypass", False)
        if not isinstance(bypass, bool):
            raise InputValueError(
                f"{cls.__name__}: bypass={bypass!r} is no choice; use True or False."
            )
        if bypass:  # MASE reads no other key then
            return LayerFormats()
        return formats_of_config(cls.mase_kind, keys, cls.__name__)

    @classmethod
    def _checked(cls, formats: LayerFormats) -> LayerFormats:
        kind, _ = config_of_formats(formats)
        if kind != cls.mase_kind:
            raise InputValueError(
                f"{cls.__name__}: formats={formats} are those of kind {kind!r}; this layer is of "
                f"kind {cls.mase_kind!r}."
            )
        return formats


class MaseLinear(ConfiguredLinear):
    """A linear layer that rounds as MASE does."""

    backend: ClassVar[str] = "mase"

    def _round(self, role: str, x: Tensor) -> Tensor:
        fmt: NumberFormat | None = getattr(self.formats, role)
        if fmt is None or not self.enabled:
            return x
        return quantize(x, fmt, batched=role == "input", training=self.training)

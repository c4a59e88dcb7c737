"""The scales that a layer learns: its parameters, and whether they were fitted to data."""

import warnings
from collections.abc import Iterator
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.scales_by_format import Learned, ScalesByFormat


class LearnedScales(nn.Module):
    """A layer with scales of its formats, which the first training batch fits.

    Attributes:
        formats: What each tensor is rounded to.
        scales_by_format: Scales of a layer that is switched between formats; else None.
    """

    # What the plain layer calls its weight and its bias.
    weight_name: ClassVar[str] = "weight"
    bias_name: ClassVar[str] = "bias"

    formats: LayerFormats
    input_scales: nn.Parameter | None
    weight_scales: nn.Parameter | None
    bias_scales: nn.Parameter | None
    input_fitted: Tensor | None
    weight_fitted: Tensor | None
    bias_fitted: Tensor | None
    scales_by_format: ScalesByFormat | None

    def _add_scales(self, formats: LayerFormats) -> None:
        self.scales_by_format = None
        for role in ROLES:
            fmt: NumberFormat | None = getattr(formats, role)
            absent = role == "bias" and self._parameters.get(self.bias_name) is None
            scales = None if fmt is None or absent else fmt.initial_scales()
            if scales is not None:
                scales = nn.Parameter(scales)
            self.register_parameter(f"{role}_scales", scales)
            # A float, because averages over models do with buffers what they do with weights.
            fitted = None if scales is None or not _fits(formats, role) else torch.tensor(0.0)
            self.register_buffer(f"{role}_fitted", fitted)
        self._look_what_is_fitted()

    def learn_by_format(self, formats: Learned) -> None:
        """Have scales of each of some formats; call before an optimizer is made.

        What was learned in one of them is kept. Calling it again with the same formats changes
        nothing.

        Args:
            formats: By ``input``, ``weight`` and ``bias``, the formats that learn scales.
        """
        without = {"bias"} if self._parameters.get(self.bias_name) is None else set()
        new = ScalesByFormat(
            {role: each for role, each in formats.items() if role not in without},
            self._weight().device,
        )
        old = self.scales_by_format
        if old is not None and old.formats == new.formats:
            return
        for role, each in new.formats.items():
            for fmt in each:
                if (scales := self.scales_of(role, fmt)) is not None:
                    new.take_over(role, fmt, scales.detach(), self.fitted_of(role, fmt))
        self.scales_by_format = new
        for role in ROLES:
            setattr(self, f"{role}_scales", None)
            setattr(self, f"{role}_fitted", None)
        self._look_what_is_fitted()

    def scales_of(self, role: str, fmt: NumberFormat | None = None) -> nn.Parameter | None:
        """Learned scales of the input, the weight or the bias.

        Args:
            role: ``input``, ``weight`` or ``bias``.
            fmt: In which format, None for that which it is rounded to.
        """
        key = self._scales_key(role, fmt)
        if self.scales_by_format is not None:
            return None if key is None else self.scales_by_format.scales(key)
        return None if key is None else cast(nn.Parameter | None, getattr(self, f"{key}_scales"))

    def fitted_of(self, role: str, fmt: NumberFormat | None = None) -> Tensor | None:
        """Whether those scales were fitted, above 0 if so; None if there is nothing to fit."""
        key = self._scales_key(role, fmt)
        if self.scales_by_format is not None:
            return None if key is None else self.scales_by_format.fitted(key)
        return None if key is None else cast(Tensor | None, getattr(self, f"{key}_fitted"))

    def _scales_key(self, role: str, fmt: NumberFormat | None = None) -> str | None:
        """What the names of the scales of a format begin with."""
        current: NumberFormat | None = getattr(self.formats, role)
        if self.scales_by_format is None:
            return role if fmt is None or fmt == current else None
        fmt = current if fmt is None else fmt
        return None if fmt is None else self.scales_by_format.key_of(role, fmt)

    def named_scales(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All learned scales, by the names that they have in the layer."""
        if self.scales_by_format is not None:
            for name, scales in self.scales_by_format.named_parameters():
                yield f"scales_by_format.{name}", scales
            return
        for role in ROLES:
            if (own := self.scales_of(role)) is not None:
                yield f"{role}_scales", own

    def _fitted_scales(self, role: str, fmt: NumberFormat, x: Tensor) -> Tensor | None:
        scales, fitted, key = self.scales_of(role), self.fitted_of(role), self._scales_key(role)
        if scales is None or fitted is None or key not in self._to_fit:
            return scales
        if not self.training and not torch.compiler.is_compiling():
            self._look_what_is_fitted()
            if key in self._to_fit:
                warnings.warn(
                    f"{type(self).__name__}: learned scales are not fitted yet and follow each "
                    "batch; train, or load a checkpoint, before you evaluate.",
                    stacklevel=2,
                )
        sharded = self.scales_by_format is None and f"{role}_scales" not in self._parameters
        if self.training and sharded:  # in FSDP's forward
            self._refuse_sharded(role)
        data = fmt.fit_scales(x.detach())
        assert data is not None  # only formats that fit are here
        if self.training and _is_distributed():
            # Every process sees other data, but must start from the same scales: of a mean
            # magnitude, that of all elements, of which processes need not have equally many.
            count = data.new_full((1,), x.numel(), dtype=torch.float64)
            sums = torch.cat([data.double().flatten() * count, count])
            torch.distributed.all_reduce(sums)
            data = (sums[:-1] / sums[-1]).view_as(data).to(data.dtype)
        # What was written into the buffer since is respected without waiting for the device.
        data = torch.where(fitted > 0, scales.detach(), data.to(scales))
        if not self.training:
            return data
        with torch.no_grad():
            scales.copy_(data)
            fitted.fill_(1.0)
        self._to_fit -= {key}
        return scales

    def _look_what_is_fitted(self) -> None:
        """Read the buffers, which waits for the device: training forwards do without.

        What is not in ``_to_fit`` was fitted when they were last read.
        """
        by_format = self.scales_by_format
        owner, keys = (self, ROLES) if by_format is None else (by_format, by_format.keys())
        self._to_fit = frozenset(
            key
            for key in keys
            if (fitted := owner._buffers[f"{key}_fitted"]) is not None
            and (fitted.is_meta or not fitted > 0)
        )

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and look which scales are fitted."""
        self._look_what_is_fitted()
        for role in self._to_fit if mode and self.scales_by_format is None else ():
            # A DTensor of `fully_shard`, whose class takes over a second to import.
            if hasattr(self.scales_of(role), "device_mesh"):
                self._refuse_sharded(role)
        return super().train(mode)

    def _refuse_sharded(self, role: str) -> None:
        """What is written into a weight within a forward is lost where that is sharded."""
        raise InputValueError(
            f"{type(self).__name__}: {role}_scales are sharded and were not fitted before; let one "
            "batch pass in train mode before the model is sharded, load a checkpoint whose scales "
            "are fitted, or use a strategy that does not shard."
        )

    def _weight(self) -> Tensor:
        # Not from `_parameters`: a parametrised weight is none.
        weight: Tensor = getattr(self, self.weight_name)
        return weight


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _fits(formats: LayerFormats, role: str) -> bool:
    """Whether the format fits its scales to data; if not, they start where they are."""
    fmt: NumberFormat = getattr(formats, role)
    return type(fmt).fit_scales is not NumberFormat.fit_scales

"""Learned scales of a layer that is trained in several formats: each format has its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.formats import NumberFormat
from lightning_adls.layers.layer_formats import ROLES

Learned = Mapping[str, Sequence[NumberFormat]]


class ScalesByFormat(nn.Module):
    """Scales, and whether they were fitted, of each format that learns some.

    Those of the ``n``-th format of a tensor are the parameter ``weight_n_scales`` and the buffer
    ``weight_n_fitted``, above 0 if they were; for the input and the bias likewise.

    Args:
        formats: By ``input``, ``weight`` and ``bias``, the formats that learn scales.
        device: Where the scales lie.
    """

    def __init__(self, formats: Learned, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.formats = {role: tuple(formats[role]) for role in ROLES if formats.get(role)}
        self._keys = {
            (role, fmt): f"{role}_{place}"
            for role, each in self.formats.items()
            for place, fmt in enumerate(each)
        }
        for (_, fmt), key in self._keys.items():
            scales = fmt.initial_scales()
            assert scales is not None  # only formats that learn scales are here
            self.register_parameter(f"{key}_scales", nn.Parameter(scales.to(device)))
            fits = type(fmt).fit_scales is not NumberFormat.fit_scales
            # A float, because averages over models do with buffers what they do with weights.
            fitted = torch.tensor(0.0, device=device) if fits else None
            self.register_buffer(f"{key}_fitted", fitted)

    def keys(self) -> list[str]:
        """What the entries begin with, ``weight_0``."""
        return [*self._keys.values()]

    def key_of(self, role: str, fmt: NumberFormat) -> str | None:
        """What the entries of a format begin with; None if it learns nothing here."""
        return self._keys.get((role, fmt))

    def scales(self, key: str) -> nn.Parameter:
        """The scales of a key."""
        return self.get_parameter(f"{key}_scales")

    def fitted(self, key: str) -> Tensor | None:
        """Whether they were fitted, above 0 if so; None if there is nothing to fit."""
        return self._buffers[f"{key}_fitted"]

    def take_over(
        self, role: str, fmt: NumberFormat, scales: Tensor, fitted: Tensor | None
    ) -> None:
        """Copy what a layer of this format had learned."""
        if (key := self.key_of(role, fmt)) is None:
            return
        with torch.no_grad():
            self.scales(key).copy_(scales)
            if (own := self.fitted(key)) is not None and fitted is not None:
                own.copy_(fitted)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A state dict without any, of a plain model, leaves scales as they are.
        if not any(key.startswith(prefix) for key in state_dict):
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                state_dict[prefix + name] = tensor.detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The formats of each tensor."""
        return ", ".join(f"{role}: {'; '.join(map(str, f))}" for role, f in self.formats.items())

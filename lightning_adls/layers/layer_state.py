"""What the state dict of a quantised layer holds beside parameters, and what it accepts."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.layers.coded_weight import CodedWeight
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.record import RECORD_KEY, LayerRecord
from lightning_adls.layers.rounded_weight import RoundedWeight


class LayerState(RoundedWeight):
    """A layer whose state dict has its switches, mask, scales and recipe."""

    # Of `lightning_adls.layers.KINDS`.
    kind: ClassVar[str] = "Linear"
    # Of `lightning_adls.layers.BACKENDS`.
    backend: ClassVar[str] = "standard"

    @property
    def has_recipe(self) -> bool:
        """Whether the layer may round anything, so that its state dict has a record."""
        return self.scales_by_format is not None or self.formats != LayerFormats()

    @property
    def record(self) -> LayerRecord:
        """What the state dict says of the recipe of this layer."""
        if self.scales_by_format is not None:
            return LayerRecord.of_switched(self.kind, self.backend, self.scales_by_format.formats)
        return LayerRecord.of(self.kind, self.backend, self.formats)

    def get_extra_state(self) -> Tensor:
        """Kind, backend and formats in text; see :class:`LayerRecord`."""
        return self.record.to_tensor()

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse what :meth:`get_extra_state` of a layer of another recipe gave.

        Raises:
            ValueError: If backend or formats are others.
        """
        self._check_record(state, "the layer")

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination.get(prefix + self.weight_name)
        # For whom the state dict goes to it is a weight. Decoded, all are in memory at once.
        if isinstance(weight, CodedWeight) and not keep_vars:
            destination[prefix + self.weight_name] = weight.unpacked()
        if not self.has_recipe:
            del destination[prefix + RECORD_KEY]
        if not self._enabled:
            destination[f"{prefix}enabled"] = torch.tensor(False)
        if self._input_sparsity is not None:
            share = torch.tensor(self._input_sparsity, dtype=torch.float64)
            destination[f"{prefix}input_sparsity"] = share

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Checkpoints of unquantised models have no switches, no mask and no scales, which change
        # nothing then; those of pruned ones bring a mask that this layer may not have yet.
        # A quantised layer, which has a record, says when it does not round.
        rounds = True if prefix + RECORD_KEY in state_dict else None
        if (enabled := state_dict.pop(f"{prefix}enabled", rounds)) is not None:
            self.enabled = bool(enabled)
        if (share := state_dict.pop(f"{prefix}input_sparsity", None)) is not None:
            self.input_sparsity = float(share)
        record = state_dict.setdefault(prefix + RECORD_KEY, self.get_extra_state())
        self._check_record(record, prefix.removesuffix(".") or "the layer")
        mask = state_dict.get(prefix + "weight_mask")
        if mask is not None and self.weight_mask is None:
            self.weight_mask = torch.ones_like(self._weight(), dtype=torch.bool)
        elif mask is None and self.weight_mask is not None:
            state_dict[prefix + "weight_mask"] = self.weight_mask
        for role in ROLES:
            scales, fitted = getattr(self, f"{role}_scales"), getattr(self, f"{role}_fitted")
            self._complete(state_dict, f"{prefix}{role}", scales, fitted)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._look_what_is_fitted()
        self._look_whether_coded()  # by `assign=True` it is another parameter

    @staticmethod
    def _complete(
        state_dict: dict[str, Any], name: str, scales: Tensor | None, fitted: Tensor | None
    ) -> None:
        """Add what plain layers' states lack, and older ones, which hold fitted scales alone."""
        has_scales = f"{name}_scales" in state_dict
        if scales is not None and not has_scales:
            state_dict[f"{name}_scales"] = scales.detach()
        if fitted is not None and f"{name}_fitted" not in state_dict:
            state_dict[f"{name}_fitted"] = torch.tensor(1.0) if has_scales else fitted

    def _check_record(self, state: Tensor, name: str) -> None:
        if state.is_meta:  # without any values, of weights either
            return
        theirs = LayerRecord.from_tensor(state)
        ours = self.record
        if theirs != ours:
            raise InputValueError(
                f"{type(self).__name__}: the recipe of {name} is {theirs} in the state dict and "
                f"{ours} in the module; quantise the module by the same recipe, take that of the "
                "file by lightning_adls.load(module, path), or the weights alone by "
                "state_for(module, state, other_recipe=True)."
            )

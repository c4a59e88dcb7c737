"""What all quantised layers share: formats, mask, learned scales, the kept rounded weight."""

from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.carrying import check_parameters, check_replaceable
from lightning_adls.layers.kept import KeptWeight
from lightning_adls.layers.layer_formats import ROLES, LayerFormats


class QuantizedLayer(nn.Module):
    """A layer that rounds its input, weight and bias to number formats.

    The parameters stay in full precision and keep the names of the plain layer, so that state
    dicts pass between the two; gradients reach them straight through the rounding. The sparsity
    mask is applied after rounding, because some formats cannot hold zero. While nothing trains
    (``eval()`` and no gradient asked for) the rounded weight is kept until the weight, the mask,
    the scales, the formats or the switches change. Another tensor in their place is seen, also one
    assigned to ``weight.data``, and so are the usual writes. Torch counts no version for what is
    written in place through ``weight.data`` or a NumPy array of the same memory, and none for the
    step of a fused optimiser, which is seen if the layer computed with gradients before it: call
    ``train()`` or ``eval()`` after such a write.

    All that changes an output in eval mode, besides the formats, is in the state dict: ``enabled``
    where it is false, ``input_sparsity`` where it was ever set. A state dict without them, such as
    that of a plain layer, leaves both as they are, and so it leaves mask and scales.

    Scales that a format learns are parameters ``input_scales``, ``weight_scales`` and
    ``bias_scales``. The first training batch fits them to the data; until then (and not in a
    checkpoint) they follow whatever is rounded.

    Attributes:
        formats: What each tensor is rounded to.
        enabled: If false, nothing is rounded; the mask is still applied.
        weight_mask: Bool, in the shape of the weight, true where a weight is kept; or None.
    """

    # Where the features of the input lie, counted from the end.
    feature_dim: ClassVar[int] = -1
    # Of `lightning_adls.layers.BACKENDS`.
    backend: ClassVar[str] = "standard"

    weight: Tensor
    weight_mask: Tensor | None
    input_scales: nn.Parameter | None
    weight_scales: nn.Parameter | None
    bias_scales: nn.Parameter | None

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of the plain ``layer``, without device and dtype."""
        raise NotImplementedError

    def _add_formats(self, formats: LayerFormats) -> None:
        """Call at the end of a constructor."""
        self.formats = formats
        self.enabled = True
        self._input_sparsity: float | None = None
        # A buffer, so that checkpoints carry it.
        self.register_buffer("weight_mask", None)
        self._kept: KeptWeight | None = None
        for role in ROLES:
            fmt: NumberFormat | None = getattr(formats, role)
            absent = role == "bias" and self._parameters.get("bias") is None
            scales = None if fmt is None or absent else fmt.initial_scales()
            if scales is not None:
                scales = nn.Parameter(scales)
            self.register_parameter(f"{role}_scales", scales)
        self._unfitted = frozenset(
            role for role in ROLES if self.scales_of(role) is not None and _fits(formats, role)
        )

    @classmethod
    def from_layer(cls, layer: nn.Module, formats: LayerFormats) -> Self:
        """A layer on the SAME parameters as ``layer``, in the same mode.

        If ``layer`` is quantised already, its mask, its switches and the scales of formats that
        stay are kept. Its hooks and what the user put on it are carried when the new layer takes
        its place, by :func:`lightning_adls.transforms.walk.replace_layers`.

        Raises:
            ValueError: If a weight or bias is no parameter but made anew before each call, or
                ``layer`` has something else that cannot be carried; see
                :func:`lightning_adls.layers.carrying.check_replaceable`.
        """
        check_parameters(layer, cls.__name__)
        weight = cast(Tensor, layer.weight)
        new = cls(
            **cls.arguments_of(layer),
            formats=formats,
            device="meta",  # nothing is allocated or drawn: the parameters are replaced below
            dtype=weight.dtype,
        )
        for name in ("weight", "bias"):
            if name in layer._parameters:
                setattr(new, name, layer._parameters[name])
        for role in ROLES:
            if (scales := new.scales_of(role)) is not None:
                setattr(new, f"{role}_scales", nn.Parameter(scales.detach().to(weight.device)))
        if isinstance(layer, QuantizedLayer):
            new._take_over(layer)
        check_replaceable(layer, new)
        return new.train(layer.training)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter, but not that of torch's pruning, whose mask is not a layer's here.

        Raises:
            ValueError: If torch's pruning is applied to the weight.
        """
        # Asked before torch takes the weight away. It would overwrite `weight_mask` afterwards.
        if name == "weight_orig" and "weight" in self._parameters:
            raise InputValueError(
                f"{type(self).__name__}: torch.nn.utils.prune cannot mask the weight of a "
                "quantised layer; use lightning_adls.Prune, or prune before quantising and call "
                "torch.nn.utils.prune.remove(layer, 'weight')."
            )
        super().register_parameter(name, param)

    def _take_over(self, layer: "QuantizedLayer") -> None:
        self.weight_mask = layer.weight_mask
        self.enabled = layer.enabled
        self._input_sparsity = layer._input_sparsity
        for role in ROLES:
            scales = layer.scales_of(role)
            # Another backend's scales are multiplied with something else.
            if scales is None or self.scales_of(role) is None or layer.backend != self.backend:
                continue
            if getattr(self.formats, role) == getattr(layer.formats, role):
                setattr(self, f"{role}_scales", scales)
                self._unfitted -= {role} - layer._unfitted

    @property
    def input_sparsity(self) -> float:
        """Share of the input's features that is set to zero, 0 to below 1.

        Those of the smallest magnitude, for each token or pixel by itself.

        Raises:
            ValueError: When set, if it is out of range.
        """
        return self._input_sparsity or 0.0

    @input_sparsity.setter
    def input_sparsity(self, share: float) -> None:
        if not 0 <= share < 1:
            raise InputValueError(
                f"{type(self).__name__}: input_sparsity={share} is not in 0 <= input_sparsity < 1."
            )
        self._input_sparsity = float(share)

    def scales_of(self, role: str) -> nn.Parameter | None:
        """Learned scales of the input, the weight or the bias."""
        return cast(nn.Parameter | None, getattr(self, f"{role}_scales"))

    def rounded_input(self, input: Tensor) -> Tensor:
        """The input as it is multiplied: rounded, its smallest features set to zero."""
        if self.formats.input is None and not self.input_sparsity:
            return input
        features = input.movedim(self.feature_dim, -1)
        rounded = self._round("input", features)
        if self.input_sparsity:
            dropped = round(self.input_sparsity * features.shape[-1])
            smallest = features.abs().topk(dropped, dim=-1, largest=False).indices
            rounded = rounded.scatter(-1, smallest, 0.0)
        return rounded.movedim(-1, self.feature_dim)

    def rounded_weight(self) -> Tensor:
        """The weight as it is multiplied: rounded, then masked."""
        if torch.compiler.is_compiling():
            return self._round_weight()
        tensors = (self.weight, self.weight_mask, self.scales_of("weight"))
        parts = [part for part in tensors if part is not None]
        if (
            self.training
            or (torch.is_grad_enabled() and any(part.requires_grad for part in parts))
            or any(part.is_inference() for part in parts)  # these count no versions
        ):
            # Neither do fused optimisers, whose step may come next.
            self._kept = None
            return self._round_weight()
        # An inference tensor cannot serve a later forward with gradients: keep the two apart.
        inference = torch.is_inference_mode_enabled()
        settings = (self.formats, self.enabled, "weight" in self._unfitted, inference)
        kept = self._kept
        if kept is None or not kept.is_made_of(parts, settings):
            kept = self._kept = KeptWeight(self._round_weight(), parts, settings)
        return kept.weight

    def rounded_bias(self) -> Tensor | None:
        """The bias as it is added."""
        # Not from `_parameters`: a parametrised bias is none, and an embedding has no attribute.
        bias = getattr(self, "bias", None)
        return None if bias is None else self._round("bias", bias)

    def _round_weight(self) -> Tensor:
        weight: Tensor = self.weight
        if self.formats.weight is not None:
            # As a matrix, whose rows are what one output sums over.
            weight = self._round("weight", weight.flatten(1)).view_as(weight)
        if self.weight_mask is not None:
            weight = weight.masked_fill(~self.weight_mask, 0.0)
        return weight

    def _round(self, role: str, x: Tensor) -> Tensor:
        fmt: NumberFormat | None = getattr(self.formats, role)
        if fmt is None or not self.enabled:
            return x
        scales = self._fitted_scales(role, fmt, x)
        return fmt(x, scales, training=self.training, batched=role == "input")

    def _fitted_scales(self, role: str, fmt: NumberFormat, x: Tensor) -> Tensor | None:
        scales = self.scales_of(role)
        if scales is None or role not in self._unfitted:
            return scales
        fitted = fmt.fit_scales(x.detach())
        assert fitted is not None  # only formats that fit are unfitted
        if not self.training:
            return fitted.to(scales)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Every process sees other data, but must start from the same scales.
            torch.distributed.all_reduce(fitted)
            fitted = fitted / torch.distributed.get_world_size()
        with torch.no_grad():
            scales.copy_(fitted)
        self._unfitted -= {role}
        return scales

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and forget the rounded weight."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to`, `half` and the like: what is kept must not stay behind on the old device.
        self._kept = None
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles round anew: what is kept belongs to this layer's tensors.
        return {**self.__dict__, "_kept": None}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Scales that are loaded count as fitted: those that are not yet must not be there.
        for role in self._unfitted:
            del destination[f"{prefix}{role}_scales"]
        if not self.enabled:
            destination[f"{prefix}enabled"] = torch.tensor(False)
        if self._input_sparsity is not None:
            share = torch.tensor(self._input_sparsity, dtype=torch.float64)
            destination[f"{prefix}input_sparsity"] = share

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Checkpoints of unquantised models have no switches, no mask and no scales, which change
        # nothing then; those of pruned ones bring a mask that this layer may not have yet.
        if (enabled := state_dict.pop(f"{prefix}enabled", None)) is not None:
            self.enabled = bool(enabled)
        if (share := state_dict.pop(f"{prefix}input_sparsity", None)) is not None:
            self.input_sparsity = float(share)
        mask = state_dict.get(prefix + "weight_mask")
        if mask is not None and self.weight_mask is None:
            self.weight_mask = torch.ones_like(self.weight, dtype=torch.bool)
        elif mask is None and self.weight_mask is not None:
            state_dict[prefix + "weight_mask"] = self.weight_mask
        for role in ROLES:
            scales, key = self.scales_of(role), f"{prefix}{role}_scales"
            if scales is not None and key in state_dict:
                self._unfitted -= {role}
            elif scales is not None:
                state_dict[key] = scales.detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments of the plain layer, then the formats."""
        return f"{super().extra_repr()}, {self.formats}"


def _fits(formats: LayerFormats, role: str) -> bool:
    """Whether the format fits its scales to data; if not, they start where they are."""
    fmt: NumberFormat = getattr(formats, role)
    return type(fmt).fit_scales is not NumberFormat.fit_scales

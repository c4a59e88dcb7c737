"""What all quantised layers share: formats, mask, learned scales, the kept rounded weight."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.carrying import check_parameters, check_replaceable
from lightning_adls.layers.coded_weight import CodedWeight, RowOrder
from lightning_adls.layers.kept import KeptWeight
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.record import RECORD_KEY, LayerRecord
from lightning_adls.layers.scales_by_format import Learned, ScalesByFormat


class QuantizedLayer(nn.Module):
    """A layer that rounds its input, weight and bias to number formats.

    The parameters stay in full precision and keep the names of the plain layer, so that state
    dicts pass between the two; gradients reach them straight through the rounding. The sparsity
    mask is applied after rounding, because some formats cannot hold zero. While nothing trains
    (``eval()`` and no gradient asked for) the rounded weight is kept until the weight, the mask,
    the scales, the formats or the switches change. Another tensor in their place is seen, also one
    assigned to ``weight.data``, and so are the usual writes. Torch counts no version for what is
    written in place through ``weight.data`` or a NumPy array of the same memory, and none for the
    step of its fused optimisers, which is seen if the layer computed with gradients before it: call
    ``train()`` or ``eval()`` after such a write. (:func:`lightning_adls.adamw` counts versions.)
    In train mode, on the CPU, the rounded weight is kept if it is frozen, together with a copy of
    the weight to compare it with, which sees every write.

    All that changes an output in eval mode is in the state dict: ``enabled`` where it is false,
    ``input_sparsity`` where it was ever set, and backend and formats as ``_extra_state`` where
    there are formats. A state dict of a plain layer leaves them as they are, and so it leaves mask
    and scales. One with other formats or another backend is refused.

    Scales that a format learns are parameters ``input_scales``, ``weight_scales`` and
    ``bias_scales``. The first training batch fits them to the data. Whether that was done is a
    buffer beside each, ``input_fitted`` and so on, above 0 if so: copies, averages and whatever
    returns to an earlier state take it along. Until then they follow whatever is rounded, and
    evaluating warns of it.

    A layer may be trained in several formats in turn (:meth:`learn_by_format`, :meth:`switch`).
    Then it has scales of each format, in :class:`ScalesByFormat`, and no others; its record names
    the formats that learn scales, and not the one that it was switched to last.

    Attributes:
        formats: What each tensor is rounded to.
        scales_by_format: Scales of a layer that is switched between formats; else None.
        enabled: If false, nothing is rounded; the mask is still applied. So it is while the layer
            is ``waiting``; what is set is kept.
        waiting: Whether a fit has yet to begin to round. In no state dict: its steps decide.
        weight_mask: Bool, in the shape of the weight, true where a weight is kept; or None.
    """

    # The plain layers that it stands for.
    plain_types: ClassVar[tuple[type[nn.Module], ...]]
    # What they call their weight, their bias and the arguments that are rounded as input.
    weight_name: ClassVar[str] = "weight"
    bias_name: ClassVar[str] = "bias"
    input_names: ClassVar[tuple[str, ...]] = ("input",)
    # Where the features of the input lie, counted from the end.
    feature_dim: ClassVar[int] = -1
    # Of `lightning_adls.layers.KINDS`.
    kind: ClassVar[str] = "Linear"
    # Of `lightning_adls.layers.BACKENDS`.
    backend: ClassVar[str] = "standard"

    weight: Tensor
    weight_mask: Tensor | None
    input_scales: nn.Parameter | None
    weight_scales: nn.Parameter | None
    bias_scales: nn.Parameter | None
    input_fitted: Tensor | None
    weight_fitted: Tensor | None
    bias_fitted: Tensor | None
    scales_by_format: ScalesByFormat | None

    @classmethod
    def stands_for(cls, layer: nn.Module) -> bool:
        """Whether ``layer`` is a plain layer that this class can take the place of."""
        return type(layer) in cls.plain_types

    @staticmethod
    def arguments_of(layer: Any) -> dict[str, Any]:
        """Constructor arguments of the plain ``layer``, without device and dtype."""
        raise NotImplementedError

    def _add_formats(self, formats: LayerFormats) -> None:
        """Call at the end of a constructor."""
        self.formats = formats
        self.enabled = True
        self.waiting = False
        self._input_sparsity: float | None = None
        # A buffer, so that checkpoints carry it.
        self.register_buffer("weight_mask", None)
        self.scales_by_format = None
        self._kept: KeptWeight | None = None
        self._coded = False
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
        check_parameters(layer, cls.__name__, (cls.weight_name, cls.bias_name))
        weight: Tensor = getattr(layer, cls.weight_name)
        new = cls(
            **cls.arguments_of(layer),
            formats=formats,
            device="meta",  # nothing is allocated or drawn: the parameters are replaced below
            dtype=weight.dtype,
        )
        new._share(layer)
        new._look_whether_coded()
        for role in ROLES:
            if (scales := new.scales_of(role)) is not None:
                setattr(new, f"{role}_scales", nn.Parameter(scales.detach().to(weight.device)))
            if (fitted := new.fitted_of(role)) is not None:
                setattr(new, f"{role}_fitted", fitted.to(weight.device))
        if isinstance(layer, QuantizedLayer):
            new._take_over(layer)
        check_replaceable(layer, new)
        new._look_what_is_fitted()
        new.training = layer.training  # not `train`: what it holds keeps its own modes
        return new

    def _share(self, layer: nn.Module) -> None:
        """Point at the parameters of ``layer``."""
        for name in (self.weight_name, self.bias_name):
            if name in layer._parameters:
                setattr(self, name, layer._parameters[name])

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter, but not that of torch's pruning, whose mask is not a layer's here.

        Raises:
            ValueError: If torch's pruning is applied to the weight.
        """
        # Asked before torch takes the weight away. It would overwrite `weight_mask` afterwards.
        if name == f"{self.weight_name}_orig" and self.weight_name in self._parameters:
            raise InputValueError(
                f"{type(self).__name__}: torch.nn.utils.prune cannot mask the weight of a "
                "quantised layer; use lightning_adls.Prune, or prune before quantising and call "
                f"torch.nn.utils.prune.remove(layer, {self.weight_name!r})."
            )
        super().register_parameter(name, param)

    def _take_over(self, layer: "QuantizedLayer") -> None:
        self.weight_mask = layer.weight_mask
        self.enabled = layer._enabled
        self.waiting = layer.waiting
        self._input_sparsity = layer._input_sparsity
        for role in ROLES:
            fmt: NumberFormat | None = getattr(self.formats, role)
            # Another backend's scales are multiplied with something else.
            if fmt is None or self.scales_of(role) is None or layer.backend != self.backend:
                continue
            if (scales := layer.scales_of(role, fmt)) is not None:
                setattr(self, f"{role}_scales", scales)
                setattr(self, f"{role}_fitted", layer.fitted_of(role, fmt))

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

    def switch(self, formats: LayerFormats) -> None:
        """Round to other formats from now on, each with the scales that were learned in it.

        Raises:
            ValueError: If the layer was not prepared by :meth:`learn_by_format`, or a format learns
                scales and was not among those.
        """
        if self.scales_by_format is None:
            raise InputValueError(
                f"{type(self).__name__}: formats cannot be switched in a layer that has scales of "
                "its own formats alone; prepare it for one training of all recipes."
            )
        for role in ROLES:
            fmt: NumberFormat | None = getattr(formats, role)
            absent = role == "bias" and self._parameters.get(self.bias_name) is None
            if fmt is None or absent or not fmt.learns_scales:
                continue
            if self.scales_by_format.key_of(role, fmt) is None:
                raise InputValueError(
                    f"{type(self).__name__}: {role}={fmt} learns scales, and the layer is not "
                    "trained in it; it has scales of "
                    f"{self.scales_by_format.extra_repr() or 'no format'}."
                )
        self.formats = formats
        self._look_whether_coded()

    @property
    def enabled(self) -> bool:
        """Whether anything is rounded."""
        return self._enabled and not self.waiting

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled

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

    @property
    def changes_input(self) -> bool:
        """Whether the layer rounds its input or sets a part of it to zero."""
        return bool(self.input_sparsity) or (self.enabled and self.formats.input is not None)

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

    def to_rows(self, weight: Tensor) -> Tensor:
        """The weight as a matrix, each row of which is what one output sums over."""
        return weight.flatten(1)

    def row_order(self) -> RowOrder:
        """How what :meth:`to_rows` made becomes the weight again."""
        shape = tuple(self._weight().shape)
        return RowOrder(shape, tuple(range(len(shape))), shape)

    def from_rows(self, rows: Tensor) -> Tensor:
        """What :meth:`to_rows` made, in the shape of the weight."""
        return self.row_order()(rows)

    def rounded_input(self, input: Tensor) -> Tensor:
        """The input as it is multiplied: rounded, its smallest features set to zero."""
        if self.formats.input is None and not self.input_sparsity:
            return input
        if input.is_nested:
            raise InputValueError(
                f"{type(self).__name__}: a nested input cannot be rounded; pad it (an "
                "nn.TransformerEncoder does so with use_nested_tensor=False)."
            )
        moved = self.feature_dim != -1
        features = input.movedim(self.feature_dim, -1) if moved else input
        rounded = self._round("input", features)
        if self.input_sparsity:
            dropped = round(self.input_sparsity * features.shape[-1])
            smallest = features.abs().topk(dropped, dim=-1, largest=False).indices
            rounded = rounded.scatter(-1, smallest, 0.0)
        return rounded.movedim(-1, self.feature_dim) if moved else rounded

    def rounded_weight(self) -> Tensor:
        """The weight as it is multiplied: rounded, then masked."""
        if self.formats.weight is None and self.weight_mask is None:
            return self._weight()
        if torch.compiler.is_compiling() or self._coded:
            return self._round_weight()
        tensors = (self._weight(), self.weight_mask, self.scales_of("weight"), self.weight_fitted)
        parts = [part for part in tensors if part is not None]
        if not self._may_keep(parts):
            self._kept = None
            return self._round_weight()
        # An inference tensor cannot serve a later forward with gradients: keep the two apart.
        inference = torch.is_inference_mode_enabled()
        settings = (self.formats, self.enabled, inference)
        kept = self._kept
        if kept is None or not kept.is_made_of(parts, settings):
            kept = KeptWeight(self._round_weight(), parts, settings, by_value=self.training)
            self._kept = kept
        return kept.weight

    def _may_keep(self, parts: Sequence[Tensor]) -> bool:
        """Whether nothing trains what the rounded weight is made of, and all writes are seen."""
        if any(part.is_inference() for part in parts):  # these count no versions
            return False
        trained = any(part.requires_grad for part in parts)
        if not self.training:
            # Fused optimisers count no versions, and their step may come after gradients.
            return not (torch.is_grad_enabled() and trained)
        # A frozen weight is compared by value: teachers that follow a student are often written
        # through `weight.data`. Elsewhere than on the CPU the comparison would wait.
        fmt = self.formats.weight
        return (
            not trained
            and self._weight().device.type == "cpu"
            and not (fmt is not None and fmt.rounds_at_random)
        )

    def rounded_bias(self) -> Tensor | None:
        """The bias as it is added."""
        # Not from `_parameters`: a parametrised bias is none, and an embedding has no attribute.
        bias = getattr(self, self.bias_name, None)
        return None if bias is None else self._round("bias", bias)

    def _weight(self) -> Tensor:
        # Not from `_parameters`: a parametrised weight is none.
        weight: Tensor = getattr(self, self.weight_name)
        return weight

    def keep_codes(self, weight: nn.Parameter) -> None:
        """Take a :class:`CodedWeight` as parameter, which is decoded where it is multiplied.

        One in the codes of another format than the layer's is rounded like any weight.
        """
        self._parameters[self.weight_name] = weight
        self._look_whether_coded()

    def _look_whether_coded(self) -> None:
        """Note it, because compilers cannot ask a weight for its format."""
        weight: Any = self._parameters.get(self.weight_name)
        self._coded = isinstance(weight, CodedWeight) and weight.format == self.formats.weight

    def _round_weight(self) -> Tensor:
        weight = self._weight()
        if self._coded:
            # Any operator decodes it, and this one does nothing else.
            weight = weight.view(weight.shape)
        elif self.formats.weight is not None:
            rows = self.to_rows(weight)
            rounded = self._round("weight", rows)
            weight = rounded if rows is weight else self.from_rows(rounded)
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
        """Switch the mode, forget the rounded weight and look which scales are fitted."""
        self._kept = None
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

    def extra_repr(self) -> str:
        """The arguments of the plain layer, then the formats."""
        return f"{super().extra_repr()}, {self.formats}"


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _fits(formats: LayerFormats, role: str) -> bool:
    """Whether the format fits its scales to data; if not, they start where they are."""
    fmt: NumberFormat = getattr(formats, role)
    return type(fmt).fit_scales is not NumberFormat.fit_scales

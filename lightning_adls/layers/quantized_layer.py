"""What all quantised layers share: their plain layers, and how one takes the place of another."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.carrying import check_parameters, check_replaceable
from lightning_adls.layers.layer_formats import ROLES, LayerFormats
from lightning_adls.layers.layer_state import LayerState


class QuantizedLayer(LayerState):
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
    # What they call the arguments that are rounded as input.
    input_names: ClassVar[tuple[str, ...]] = ("input",)

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
        self._kept = None
        self._coded = False
        self._add_scales(formats)

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

    def extra_repr(self) -> str:
        """The arguments of the plain layer, then the formats."""
        return f"{super().extra_repr()}, {self.formats}"

"""What a state dict says of the recipe of a layer: its text, as a tensor of bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.layers.layer_formats import ROLES, LayerFormats

# Where torch puts the extra state of a module.
RECORD_KEY = "_extra_state"
# Where a layer of PEFT has the record of its adapter.
ADAPTER_KEY = "adapter_record"
# What the states of quantised, masked, packed and adapted layers have and those of plain ones not.
ADDED = frozenset(
    {
        *(RECORD_KEY, ADAPTER_KEY, "weight_mask", "enabled", "input_sparsity"),
        *("codes", "exponents"),
        *(f"{role}_{entry}" for role in ROLES for entry in ("scales", "fitted")),
    }
)


@dataclass(frozen=True)
class LayerRecord:
    """The recipe of one layer, in text.

    Args:
        kind: Of the ``KINDS``.
        backend: Of the ``BACKENDS``.
        input: What the input is rounded to, in text, or None; ``weight`` and ``bias`` likewise.
        scales_by_format: Of a layer that is switched between formats, those that learn scales, by
            tensor; None of other layers.

    Example:
        >>> record = LayerRecord("Linear", "standard", weight="MXInt(width=4)")
        >>> LayerRecord.from_tensor(record.to_tensor()) == record
        True
        >>> str(record)
        'backend=standard, input=None, weight=MXInt(width=4), bias=None'
    """

    kind: str
    backend: str
    input: str | None = None
    weight: str | None = None
    bias: str | None = None
    scales_by_format: Mapping[str, Sequence[str]] | None = None

    @classmethod
    def of_switched(
        cls, kind: str, backend: str, learned: Mapping[str, Sequence[NumberFormat]]
    ) -> "LayerRecord":
        """The record of a layer that is switched between formats, with those that learn scales."""
        texts = {role: [str(fmt) for fmt in formats] for role, formats in learned.items()}
        return cls(kind, backend, scales_by_format=texts)

    @classmethod
    def of(cls, kind: str, backend: str, formats: LayerFormats) -> "LayerRecord":
        """The record of a layer with these formats."""
        texts = {role: None if (f := getattr(formats, role)) is None else str(f) for role in ROLES}
        return cls(kind, backend, texts["input"], texts["weight"], texts["bias"])

    @property
    def formats(self) -> LayerFormats:
        """What the texts say."""
        texts = {role: getattr(self, role) for role in ROLES}
        return LayerFormats(**{role: text and parse(text) for role, text in texts.items()})

    def to_tensor(self) -> Tensor:
        """The text as JSON in UTF-8, uint8, in main memory.

        A tensor, because what averages, compares or stores state dicts often knows nothing else.
        """
        content = asdict(self)
        if self.scales_by_format is None:
            del content["scales_by_format"]
        return to_bytes(content)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "LayerRecord":
        """Read what :meth:`to_tensor` wrote, on any device and in any dtype.

        Raises:
            ValueError: If it is something else.
        """
        try:
            return cls(**from_bytes(tensor))
        except (TypeError, ValueError, AttributeError) as error:
            raise InputValueError(
                f"LayerRecord: {RECORD_KEY}={tensor!r} is not the recipe of a quantised layer; "
                "load the state dict as it was saved."
            ) from error

    @property
    def learned(self) -> dict[str, tuple[NumberFormat, ...]] | None:
        """What ``scales_by_format`` says."""
        if self.scales_by_format is None:
            return None
        return {role: tuple(map(parse, texts)) for role, texts in self.scales_by_format.items()}

    def __str__(self) -> str:
        if self.scales_by_format is not None:
            return f"backend={self.backend}, scales_by_format={dict(self.scales_by_format)}"
        formats = ", ".join(f"{role}={getattr(self, role)}" for role in ROLES)
        return f"backend={self.backend}, {formats}"


def to_bytes(content: Mapping[str, Any]) -> Tensor:
    """JSON in UTF-8, uint8, in main memory."""
    text = json.dumps(content)
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def from_bytes(tensor: Tensor) -> Any:
    """What :func:`to_bytes` was given, from any device and dtype.

    Raises:
        ValueError: If it is something else.
    """
    return json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))

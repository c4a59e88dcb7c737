"""What a state dict says of an adapter of PEFT, whose own state leaves out what scales it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.record import ADAPTER_KEY, from_bytes, to_bytes

# What PEFT calls the one adapter that it inserts.
NAME = "default"


@dataclass(frozen=True)
class AdapterRecord:
    """How an adapter was made.

    Args:
        rank: Of the product that is added.
        alpha: The product is scaled by ``alpha / rank``.
        dropout: Of its input in training.

    Example:
        >>> record = AdapterRecord(rank=8, alpha=16.0, dropout=0.1)
        >>> AdapterRecord.from_tensor(record.to_tensor()) == record
        True
    """

    rank: int
    alpha: float
    dropout: float

    @classmethod
    def of(cls, layer: Any) -> "AdapterRecord":
        """The record of a layer of PEFT."""
        dropout = getattr(layer.lora_dropout[NAME], "p", 0.0)  # without any it is an identity
        return cls(layer.r[NAME], layer.lora_alpha[NAME], dropout)

    def to_tensor(self) -> Tensor:
        """The record as JSON in UTF-8, uint8, in main memory; see :class:`LayerRecord`."""
        return to_bytes(asdict(self))

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "AdapterRecord":
        """Read what :meth:`to_tensor` wrote, on any device and in any dtype.

        Raises:
            ValueError: If it is something else.
        """
        try:
            return cls(**from_bytes(tensor))
        except (TypeError, ValueError, AttributeError) as error:
            raise InputValueError(
                f"AdapterRecord: {ADAPTER_KEY}={tensor!r} is not the record of an adapter; load "
                "the state dict as it was saved."
            ) from error

    def __str__(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


def adapter_records_of(state: Mapping[str, Any]) -> dict[str, AdapterRecord]:
    """The record of each adapter, by the name of its layer, that a state dict was saved with.

    Raises:
        ValueError: If one is not what an adapter's layer writes.
    """
    return {
        key.removesuffix(f".{ADAPTER_KEY}"): AdapterRecord.from_tensor(value)
        for key, value in state.items()
        if key.endswith(f".{ADAPTER_KEY}")
    }


def keep_record(layer: nn.Module) -> None:
    """Let the state dict of a layer of PEFT hold the record of its adapter.

    One with another rank or alpha is refused by ``load_state_dict``; one without any, such as older
    ones, is loaded as it is. What acts in training alone may differ.
    """
    layer.register_state_dict_post_hook(_save)
    layer.register_load_state_dict_pre_hook(_check)


# Not methods: copies of a layer share its hooks.


def _save(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[prefix + ADAPTER_KEY] = AdapterRecord.of(layer).to_tensor()


def _check(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    tensor: Tensor | None = state.pop(prefix + ADAPTER_KEY, None)
    if tensor is None or tensor.is_meta:
        return
    theirs, ours = AdapterRecord.from_tensor(tensor), AdapterRecord.of(layer)
    if (theirs.rank, theirs.alpha) != (ours.rank, ours.alpha):
        raise InputValueError(
            f"LoRA: the adapter of {prefix.removesuffix('.')} has {theirs} in the state dict and "
            f"{ours} in the module; insert adapters by the same LoRA."
        )

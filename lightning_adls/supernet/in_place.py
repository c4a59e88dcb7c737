"""The pass of the largest recipe as the teacher of the other passes of the same batch."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_adls.callbacks.distillation import logits_of
from lightning_adls.callbacks.recording import Call, recorded
from lightning_adls.callbacks.teachers import network_of
from lightning_adls.distillation import check_temperature, soft_label_loss
from lightning_adls.errors import InputValueError


class InPlaceTeacher:
    """Teaches the later passes of a batch what the first one gave.

    "Inplace Distillation" of Yu and Huang 2019 (arXiv:1903.05134): the first pass learns from the
    labels, the others from its logits alone, by
    :func:`lightning_adls.distillation.soft_label_loss`. Nothing is computed for it twice.

    Args:
        module: Whose training step is passed through.
        network: As that of :class:`lightning_adls.callbacks.Distillation`.
        temperature: Of the soft labels, above 0.
        who: Begins the error messages.

    Raises:
        ValueError: If there is no such network or the temperature is out of range.
    """

    def __init__(
        self, module: L.LightningModule, network: str | None, temperature: float, who: str
    ) -> None:
        check_temperature(temperature, who)
        self._module = module
        self._network = network_of(module, network, who)
        self._temperature = temperature
        self._who = who
        self._taught: list[Tensor] | None = None

    def passed(self, step: Callable[[], Any]) -> Any:
        """What a pass returns; of all but the first, the loss is how far it is from that.

        Raises:
            ValueError: If the step does not call the network, or not as often as the first pass.
        """
        seen: list[Tensor] = []

        def note(call: Call) -> None:
            if torch.is_grad_enabled():
                seen.append(logits_of(call.output))

        with recorded({self._network: note}):
            output = step()
        if output is None:
            return None
        if self._taught is None:
            if not seen:
                raise InputValueError(
                    f"{self._who}: the training_step of {type(self._module).__name__} does not "
                    "call its network with gradients; give the name of the part that gives logits "
                    "as network."
                )
            self._taught = [logits.detach() for logits in seen]
            return output
        if len(seen) != len(self._taught):
            raise InputValueError(
                f"{self._who}: the training_step of {type(self._module).__name__} calls its "
                f"network {len(self._taught)} times in one pass and {len(seen)} times in another; "
                "use distill=False."
            )
        pairs = zip(seen, self._taught, strict=True)
        losses = [soft_label_loss(ours, theirs, self._temperature) for ours, theirs in pairs]
        loss = torch.stack(losses).mean()
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

"""A model as a graph of torch's operators."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lightning_adls.errors import InputValueError
from lightning_adls.export.example_inputs import ExampleInputs, is_text_classifier


class Logits(nn.Module):
    """A classifier of Transformers whose output are the logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    # Torch cannot tell the sizes of inputs that a signature does not name.
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits, ``(batch, classes)``, of int64 inputs, all ``(batch, length)``."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        given = {name: value for name, value in inputs.items() if value is not None}
        logits: Tensor = self.network(**given).logits
        return logits


def computing(network: nn.Module) -> nn.Module:
    """What gives tensors: of a classifier of Transformers its logits."""
    return Logits(network) if is_text_classifier(network) else network


@torch.no_grad()
def traced(network: nn.Module, examples: ExampleInputs) -> ExportedProgram:
    """Trace a network in eval mode.

    Args:
        network: By :func:`lightning_adls.export.frozen.frozen`.
        examples: What it is called with.

    Raises:
        ValueError: If torch cannot trace it; the message has torch's reason.
    """
    dims: list[Any] = [dict.fromkeys(dims, Dim.DYNAMIC) for dims in examples.dims.values()]
    shapes = dict(zip(examples.dims, dims, strict=True)) if examples.named else tuple(dims)
    try:
        return torch.export.export(
            computing(network), examples.args, examples.kwargs, dynamic_shapes=shapes, strict=False
        )
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise InputValueError(
            f"export: torch.export cannot trace {type(network).__name__}: {why}"
        ) from error

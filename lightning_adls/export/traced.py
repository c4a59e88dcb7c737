"""A model as a graph of torch's operators."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lightning_adls.errors import InputValueError
from lightning_adls.export.examples import ExampleInputs, is_text_classifier


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
    network = computing(network)
    with refusing("torch.export", network):
        return torch.export.export(
            network,
            examples.args,
            examples.kwargs,
            dynamic_shapes=free(network, examples),
            strict=False,
        )


@contextmanager
def refusing(what: str, network: nn.Module) -> Iterator[None]:
    """Say in a line that an exporter cannot do with a network.

    Raises:
        ValueError: If anything is raised.
    """
    try:
        yield
    except Exception as error:
        why = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputValueError(
            f"export: {what} cannot export {type(network).__name__}: {why}"
        ) from error


def free(network: nn.Module, examples: ExampleInputs) -> Any:
    """Which sizes are free, in the structure of the arguments of ``network``."""
    dims = {name: dict.fromkeys(sizes, Dim.DYNAMIC) for name, sizes in examples.dims.items()}
    if examples.named:
        return dims
    kinds = [each.kind for each in inspect.signature(network.forward).parameters.values()]
    each, rest = tuple(dims.values()), inspect.Parameter.VAR_POSITIONAL
    alone = kinds.index(rest) if rest in kinds else len(each)
    return each[:alone] if alone >= len(each) else (*each[:alone], each[alone:])

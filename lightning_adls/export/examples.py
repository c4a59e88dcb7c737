"""Inputs that a model is traced with, and which of their dimensions stay free."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.models.length import positions

# Of a classifier of texts, in the order that they become inputs of a graph.
_TEXT = ("input_ids", "attention_mask", "token_type_ids")
# None of the sizes that networks are made of, and neither 0 nor 1, for which torch makes a graph
# of its own.
_ROWS, _TOKENS = 3, 7

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


@dataclass(frozen=True)
class ExampleInputs:
    """What a model is called with, on the CPU.

    Args:
        tensors: By name, in the order of the arguments.
        dims: Of each tensor, the dimensions whose size is free, and what they are called:
            ``batch``, of texts ``length``.
        named: Whether the model is called by these names; otherwise in their order.
    """

    tensors: dict[str, Tensor]
    dims: dict[str, dict[int, str]]
    named: bool

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Positional arguments of a call."""
        return () if self.named else tuple(self.tensors.values())

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """Named arguments of a call."""
        return dict(self.tensors) if self.named else {}


def network_of(model: nn.Module) -> nn.Module:
    """What computes: of a ``TextClassifier`` its network, of a compiled module the plain one."""
    for _ in range(2):
        model = getattr(model, "_orig_mod", model)
        model = model.model if isinstance(model, TextClassifier) else model
    return model


def is_text_classifier(model: nn.Module) -> bool:
    """Whether a model is a classifier of Transformers, or holds one."""
    network = network_of(model)
    return hasattr(network, "config") and "input_ids" in _arguments(network)


def example_inputs(model: nn.Module, inputs: Inputs | None = None) -> ExampleInputs:
    """Inputs to trace a model with.

    Args:
        model: A network or a ``TextClassifier``; not called and not changed.
        inputs: A tensor, several in the order of the arguments, or by their names. The first
            dimension of each is the batch, at least 1; of a classifier of texts the second is the
            length. None makes ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 of
            shape ``(3, 7)``, as far as the network tells by them; a part of the mask is 0.

    Raises:
        ValueError: If there are no inputs and ``model`` is no classifier of Transformers, or
            something in them is no tensor, has no batch, or not the batch of the others.

    Example:
        >>> found = example_inputs(nn.Linear(4, 2), torch.zeros(1, 4))
        >>> found.tensors["input"].shape, found.dims
        (torch.Size([2, 4]), {'input': {0: 'batch'}})
    """
    if isinstance(model, nn.Module) and inputs is None:
        tensors, named = _of_texts(model), True
    else:
        tensors, named = _given(network_of(model), inputs)
    text = is_text_classifier(model)
    dims = {
        name: {0: "batch", 1: "length"} if text and tensor.dim() == 2 else {0: "batch"}
        for name, tensor in tensors.items()
    }
    return ExampleInputs(tensors, dims, named)


def _of_texts(model: nn.Module) -> dict[str, Tensor]:
    if not is_text_classifier(model):
        raise InputValueError(
            f"export: inputs=None, and {type(network_of(model)).__name__} is no classifier of "
            "Transformers; give a tensor, several in a tuple or by name, whose first dimension is "
            "the batch."
        )
    network: Any = network_of(model)
    config, names = network.config, _arguments(network)
    longest = positions(network)
    size = (_ROWS, _TOKENS if longest is None else min(_TOKENS, longest))
    # Not drawn: whoever exports shall not find the random numbers moved on.
    ids = torch.arange(size[0] * size[1]).view(size) % config.vocab_size
    pad = config.pad_token_id
    if pad is not None:
        ids = torch.where(ids == pad, (pad + 1) % config.vocab_size, ids)
        ids[0, size[1] // 2 :] = pad
    mask = torch.ones_like(ids)
    mask[0, size[1] // 2 :] = 0
    made = dict(zip(_TEXT, (ids, mask, torch.zeros_like(ids)), strict=True))
    if getattr(config, "type_vocab_size", 0) < 2:
        # GPT-2 takes them, too, and adds words for them, which no tokenizer of it means.
        del made["token_type_ids"]
    return {name: tensor for name, tensor in made.items() if name in names}


def _given(network: nn.Module, inputs: Any) -> tuple[dict[str, Tensor], bool]:
    """Each tensor by name, and whether it was given by name."""
    named = isinstance(inputs, Mapping)
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    found = dict(inputs) if named else dict(zip(_names(network, inputs), inputs, strict=True))
    sizes: set[int] = set()
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            what = (
                "has 0 dimensions"
                if isinstance(tensor, Tensor)
                else f"is a {type(tensor).__name__}"
            )
            raise InputValueError(
                f"export: inputs[{name!r}] {what}; give a tensor that has the batch "
                "as its first dimension."
            )
        sizes.add(len(tensor))
    if len(sizes) != 1 or 0 in sizes:
        raise InputValueError(
            f"export: inputs have first dimensions of {sorted(sizes)}; give at least one tensor, "
            "each with the same number of rows, one or more."
        )
    # One row would be traced as what is always one row.
    twice = sizes == {1}
    return {
        name: (torch.cat([tensor, tensor]) if twice else tensor).detach().cpu()
        for name, tensor in found.items()
    }, named


def _arguments(network: nn.Module) -> list[str]:
    """What ``forward`` calls its arguments, those that are none of a name left out."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in kinds]


def _names(network: nn.Module, inputs: Iterable[Any]) -> list[str]:
    names = _arguments(network)
    return [names[i] if i < len(names) else f"input_{i}" for i, _ in enumerate(inputs)]

"""A network of the user's choice, made to fit a data set."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from lightning_adls.errors import InputValueError

# What the data set decides. A network that has no parameter of such a name has to fit as it is.
FROM_DATA = ("num_classes", "vocab_size", "pad_token_id")


@dataclass(frozen=True)
class NetworkFactory:
    """Makes networks of one kind: a function or class, and the arguments that its user gave.

    Of ``num_classes``, ``vocab_size`` and ``pad_token_id`` it passes on those that the function or
    class has a parameter for; every other keyword is passed on as it is. A network that takes no
    ``num_classes`` must have as many outputs, which is tried out; that it has a word vector for
    each token is its user's affair.

    Args:
        network: A function that returns, or a class that is, an ``nn.Module``. Its forward maps
            ``input_ids`` and ``attention_mask``, both ``(batch, tokens)`` of int64, to an object
            whose ``logits`` are ``(batch, num_classes)``.
        arguments: What its user gave.

    Example:
        >>> from lightning_adls.models import bert
        >>> make = NetworkFactory(bert, {"hidden_size": 16})
        >>> make(num_classes=3, vocab_size=50, pad_token_id=0).num_labels
        3
    """

    network: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **known: Any) -> nn.Module:
        """A new network.

        Raises:
            ValueError: If it does not take a keyword, or has other outputs than ``num_classes``.
        """
        passed = {name: known[name] for name in accepted(self.network, known)}
        if refused := set(known) - set(passed) - set(FROM_DATA):
            raise InputValueError(
                f"{self.network.__qualname__}: takes no {', '.join(sorted(refused))}, which is to "
                "be chosen for it; give another class_path."
            )
        network = self.network(**self.arguments, **passed)
        if "num_classes" in known and "num_classes" not in passed:
            check_outputs(network, known["num_classes"])
        return network


def accepted(network: Callable[..., nn.Module], names: Iterable[str]) -> list[str]:
    """Those of some keywords that a function or class has parameters for."""
    parameters = signature(network).parameters
    any_name = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    return [name for name in names if any_name or name in parameters]


@torch.no_grad()
def check_outputs(network: nn.Module, num_classes: int) -> None:
    """Try one text out, in eval mode.

    Raises:
        ValueError: If the network has other outputs than ``num_classes``.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    logits = network(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    for module, training in modes.items():
        module.training = training
    if logits.shape != (1, num_classes):
        raise InputValueError(
            f"{type(network).__name__}: gives logits of shape {tuple(logits.shape)} for one text "
            f"of {num_classes} possible classes, and takes no num_classes; change its outputs to "
            f"(1, {num_classes})."
        )

"""A network of the user's choice, made to fit a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from lightning_adls.errors import InputError

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
        parameters = signature(self.network).parameters.values()
        names = {parameter.name for parameter in parameters}
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
            names |= set(known)
        passed = {name: value for name, value in known.items() if name in {*names, *FROM_DATA}}
        if others := [name for name in known if name not in passed]:
            raise InputError(
                f"{self._name}: takes no {', '.join(others)}, which is to be chosen for it; give "
                "another class_path."
            )
        passed = {name: value for name, value in passed.items() if name in names}
        network = self.network(**self.arguments, **passed)
        if "num_classes" in known and "num_classes" not in passed:
            self._check_outputs(network, known["num_classes"])
        return network

    @property
    def _name(self) -> str:
        return self.network.__qualname__

    @torch.no_grad()
    def _check_outputs(self, network: nn.Module, num_classes: int) -> None:
        modes = {module: module.training for module in network.modules()}
        network.eval()
        tokens = torch.zeros(1, 8, dtype=torch.int64)
        logits = network(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        for module, training in modes.items():
            module.training = training
        if logits.shape != (1, num_classes):
            raise InputError(
                f"{self._name}: gives logits of shape {tuple(logits.shape)} for one text of "
                f"{num_classes} possible classes, and takes no num_classes; change its outputs to "
                f"(1, {num_classes})."
            )

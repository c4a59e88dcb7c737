"""What a file tells of its model in text, whoever reads it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data.tokens import load_encoder
from lightning_adls.errors import InputValueError
from lightning_adls.export.contents import Contents
from lightning_adls.models.description import describe_network
from lightning_adls.transforms.quantize import records_of

_PACKAGES = ("lightning_adls", "torch", "transformers")


def texts(model: nn.Module, labels: Sequence[str], facts: Mapping[str, Any]) -> dict[str, str]:
    """Recipe, network, names of the classes, versions and facts, each in JSON.

    Args:
        model: A network or a ``TextClassifier``.
        labels: Names of the classes; if there are none, those of the configuration.
        facts: What else is to be told; see :func:`check_facts`.
    """
    contents = Contents(
        layers=records_of(model.state_dict(keep_vars=True)),
        network=described(model),
        labels=tuple(labels) or labels_of(model),
        versions=versions(),
        facts=facts,
    )
    metadata = contents.to_metadata()
    return {name: metadata[name] for name in ("layers", "network", "labels", "versions", "facts")}


def versions() -> dict[str, str]:
    """Of the packages that wrote a file."""
    return {package: _version(package) for package in _PACKAGES}


@cache
def _version(package: str) -> str:
    return version(package)  # which reads files each time


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse what JSON cannot hold.

    Raises:
        ValueError: If there is such a fact; the message names it.
    """
    for name, value in facts.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputValueError(
                f"export: {name}={value!r} cannot be written into a file; give numbers, texts or "
                "lists of them."
            ) from error


def described(model: nn.Module) -> dict[str, Any]:
    """Class of a model, and where it can be made from text, its configuration."""
    if not isinstance(model, TextClassifier):
        return _network(model)
    return {
        "class": "lightning_adls.TextClassifier",
        "arguments": dict(model.hparams),
        "network": _network(model.model),
    }


def _network(network: nn.Module) -> dict[str, Any]:
    description = describe_network(network)
    identities = [name for name, each in network.named_modules() if type(each) is nn.Identity]
    if "config" in description and identities:  # a configuration does not tell what was dropped
        description["identities"] = identities
    return description


def labels_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes that the configuration of a network has; none if it has none."""
    network = model.model if isinstance(model, TextClassifier) else model
    names: Mapping[int, str] = getattr(getattr(network, "config", None), "id2label", None) or {}
    if all(name == f"LABEL_{number}" for number, name in names.items()):
        return ()  # which Transformers makes up
    return tuple(names[number] for number in sorted(names))


def tokenizer_of(name: str) -> dict[str, str]:
    """Name of a tokenizer and a hash of its content."""
    return {"name": name, "hash": load_encoder(name).digest}

"""A network in text: what a file needs to say of it so that it can be made again."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from lightning_adls.errors import InputValueError
from lightning_adls.models.loading import quiet


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Class of a network, and of one of Transformers its configuration: what JSON can hold.

    Returns:
        ``class``, the name that it can be imported by, and for networks of Transformers ``config``
        and ``attention``, its implementation.
    """
    cls = type(network)
    description: dict[str, Any] = {"class": f"{cls.__module__}.{cls.__qualname__}"}
    if "transformers" in sys.modules and _is_of_transformers(cls):
        config: Any = network.config
        description["config"] = json.loads(config.to_json_string(use_diff=False))
        description["attention"] = config._attn_implementation
    return description


def _is_of_transformers(cls: Any) -> bool:
    import transformers

    return (
        isinstance(cls, type)
        and issubclass(cls, transformers.PreTrainedModel)
        and getattr(transformers, cls.__name__, None) is cls
    )


def plain_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """Shapes in the state dict of what Transformers makes of the configuration of a network.

    Raises:
        ValueError: If it is no network of Transformers.
    """
    cls = type(network)
    if "transformers" not in sys.modules or not _is_of_transformers(cls):
        raise InputValueError(
            f"export: model={cls.__name__} is no network of Transformers, which others could make "
            "by its configuration."
        )
    with quiet(), torch.random.fork_rng(devices=()), torch.device("meta"):
        plain: nn.Module = cls._from_config(deepcopy(network.config))
    return {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}


def build_network(description: Mapping[str, Any], tensors: int, elements: int) -> nn.Module:
    """The network of Transformers that was described, with weights drawn at random.

    Only classes that Transformers itself offers are made: a description is no program.

    Args:
        description: By :func:`describe_network`.
        tensors: How many parameters there are weights for; a network of many more is not built.
        elements: How many numbers these have; likewise.

    Raises:
        ValueError: If it is of another class, or cannot be built.
    """
    name = description.get("class")
    if not isinstance(name, str) or "config" not in description:
        raise InputValueError(
            f"export: the file is of {name!r}, which it does not say how to make; give "
            "model=, the network or a function that makes it."
        )
    import transformers

    cls: Any = getattr(transformers, name.rpartition(".")[2], None)
    if not _is_of_transformers(cls) or f"{cls.__module__}.{cls.__qualname__}" != name:
        raise InputValueError(
            f"export: the file is of {name!r}, which this version of Transformers has not; give "
            "model=, the network or a function that makes it."
        )
    try:
        config = cls.config_class.from_dict(description["config"])
        how = {"attn_implementation": description.get("attention")}
        # What is drawn is not what is loaded.
        with quiet(), torch.random.fork_rng(devices=()):
            for device in ("meta", "cpu"):  # at first without memory
                with _at_most(tensors, elements), torch.device(device):
                    network: nn.Module = cls._from_config(config, **how)
    except InputValueError:
        raise
    except Exception as error:
        raise InputValueError(
            f"export: the file describes a {name} that cannot be built: "
            f"{' '.join(str(error).split())[:200]}."
        ) from error
    return network


@contextmanager
def _at_most(tensors: int, elements: int) -> Iterator[None]:
    """Refuse to go on where far more parameters are made than that.

    Raises:
        ValueError: If that is so.
    """
    left = [2 * tensors + 64, 2 * elements + (1 << 20)]  # some are made twice, others are left out

    def count(_module: nn.Module, _name: str, parameter: Any) -> None:
        if parameter is not None:
            left[0], left[1] = left[0] - 1, left[1] - parameter.numel()
        if min(left) < 0:
            raise InputValueError(
                f"export: the file describes a network of more parameters than the {tensors} that "
                "it has weights for."
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()

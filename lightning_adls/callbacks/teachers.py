"""What a student learns from: its own network as it was, another module, or a file."""

import copy
import hashlib
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_adls.checkpoints import load
from lightning_adls.errors import InputValueError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms.walk import part_of

Teacher = nn.Module | str | Path


def network_of(module: L.LightningModule, name: str | None, who: str) -> nn.Module:
    """The part of a LightningModule that gives logits.

    Args:
        module: Whose part it is.
        name: Of the part; ``""`` is the module itself. None stands for its only child with
            parameters, or, if there are several, the module itself.
        who: Begins the error message.

    Raises:
        ValueError: If there is no such part.
    """
    if name is None:
        children = [child for child in module.children() if _has_parameters(child)]
        own = any(True for _ in module.parameters(recurse=False))
        return children[0] if len(children) == 1 and not own else module
    return part_of(module, name, f"{who}: network")


def teacher_for(
    network: nn.Module, teacher: Teacher | None, name: str | None, who: str
) -> nn.Module:
    """A teacher in eval mode that shares nothing with the student, nor with what was given.

    Args:
        network: The student's; not changed.
        teacher: A network, a LightningModule that has one, or the file of weights for a network
            like the student's, as :func:`lightning_adls.load` reads it. None stands for the
            student's network as it is, with nothing rounded.
        name: Of the network in a LightningModule; see :func:`network_of`.
        who: Begins the error message.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it does not fit the network, or the student or the teacher has no weights
            yet.
    """
    if not _has_parameters(network):
        raise InputValueError(
            f"{who}: {type(network).__name__} has no parameters; what a module makes in its setup "
            "or configure_model comes too late: make it in __init__, or call "
            "module.configure_model() before."
        )
    if isinstance(teacher, L.LightningModule):
        teacher = network_of(teacher, name, who)
    copied = _copy(teacher if isinstance(teacher, nn.Module) else network, who)
    if not isinstance(teacher, nn.Module):
        for layer in copied.modules():
            if isinstance(layer, QuantizedLayer):
                layer.enabled = False
        if teacher is not None:
            load(copied, teacher)
    return copied.eval().requires_grad_(False)


def _copy(network: nn.Module, who: str) -> nn.Module:
    network = getattr(network, "_orig_mod", network)
    if any(is_lazy(parameter) or parameter.is_meta for parameter in network.parameters()):
        raise InputValueError(
            f"{who}: the network of the teacher has parameters without weights yet (lazy, or on "
            "the device 'meta'); give a teacher that has them."
        )
    return copy.deepcopy(network)


def fingerprint(network: nn.Module) -> str:
    """A hash of all tensors of a network and their names; reads them from their device."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        if torch.is_tensor(value):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())

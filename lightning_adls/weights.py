"""Checkpoints of weights alone."""

from pathlib import Path

import torch
from torch import nn


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a checkpoint that ``load_weights`` and ``scripts/train.py --weights`` read.

    It takes the place of an older one in one step, when it is whole.

    Raises:
        OSError: If it cannot be written.
    """
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by its path: torch hides behind a RuntimeError that a disk is full.
    with part.open("wb") as file:
        torch.save({"state_dict": module.state_dict()}, file)
    part.replace(path)

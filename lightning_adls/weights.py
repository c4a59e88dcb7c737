"""Checkpoints of weights alone."""

from pathlib import Path

import torch
from torch import nn


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a checkpoint that ``load_weights`` and ``adls train --weights`` read.

    It takes the place of an older one in one step, when it is whole.

    Raises:
        OSError: If it cannot be written.
    """
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by its path: torch hides behind a RuntimeError that a disk is full.
    with part.open("wb") as file:
        try:
            torch.save({"state_dict": module.state_dict()}, file)
        except RuntimeError as error:
            # Nor by what its writer says when it cannot end the file, either.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
    part.replace(path)

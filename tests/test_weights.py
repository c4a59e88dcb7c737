"""Checkpoints take the place of older ones when they are whole."""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_adls.weights import save_weights


@pytest.mark.parametrize("width", [60, 300])
def test_no_room_is_told_as_such_and_leaves_the_older_file(tmp_path: Path, width: int) -> None:
    path = tmp_path / "model.ckpt"
    save_weights(nn.Linear(1, 1), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        # torch's writer raises a RuntimeError of its own, "unexpected pos", on top of the other.
        with pytest.raises(OSError, match="File too large"):
            save_weights(nn.Linear(width, width), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert torch.load(path, weights_only=True)["state_dict"]

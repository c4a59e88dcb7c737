"""A device that is not there is refused in a line, before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_DEVICE = [path for path in FOLDER.glob("*.py") if "add_device(parser)" in path.read_text()]


@pytest.mark.parametrize("path", WITH_DEVICE, ids=lambda path: path.stem)
@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_missing_is_named(
    path: Path, device: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path, "--device", device) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert f"argument --device: device={device!r}" in last
    assert str(torch.cuda.device_count()) in last or "neither 'cpu' nor 'cuda'" in last


def test_every_benchmark_that_takes_a_device_is_tested() -> None:
    taking = [path for path in FOLDER.glob("*.py") if '"--device"' in path.read_text()]
    assert [path.stem for path in taking] == ["command_line"]
    assert len(WITH_DEVICE) >= 5

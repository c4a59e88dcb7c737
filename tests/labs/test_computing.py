"""Who computes a lab, from its command line."""

import pytest

from lightning_adls.budget import Budget
from lightning_adls.engines import Ray, resources
from lightning_adls.labs import computing
from lightning_adls.labs.computing import computing_by


def test_more_workers_than_cores_or_gpus_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 2)
    computing_by(None, 2, Ray(), Budget(accelerator="cpu"))
    assert capsys.readouterr().err == ""
    computing_by(None, 3, Ray(), Budget(accelerator="cpu"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: workers=3 share 2 cores")
    monkeypatch.setattr(resources, "gpus", lambda: ["0"])
    computing_by(None, 2, Ray(), Budget())
    assert capsys.readouterr().err == "warning: workers=2 share 1 GPU.\n"


def test_workers_of_one_gpu_do_not_train_on_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "gpus", lambda: ["0", "1"])
    with pytest.raises(ValueError, match=r"workers=2 have a GPU each, and budget\.devices=2 wants"):
        computing_by(None, 2, Ray(), Budget(devices=2))
    computing_by(None, 2, Ray(), Budget(devices=2, accelerator="cpu"))
    computing_by(None, 1, Ray(), Budget(devices=2))

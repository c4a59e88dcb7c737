"""The report of the machine and the versions."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from lightning_adls.labs import environment


def test_versions_are_those_that_the_packages_say() -> None:
    import lightning
    import numpy
    import optuna
    import peft
    import transformers

    found = environment.environment()
    for module in (torch, lightning, numpy, optuna, peft, transformers):
        assert found[module.__name__] == module.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["torch threads"].startswith(f"{torch.get_num_threads()}, waiting: ")
    assert all(isinstance(value, str) and value for value in found.values())


def test_nothing_but_torch_is_imported_for_it() -> None:
    code = (
        "import lightning_adls.labs.environment as e, sys; e.environment()\n"
        "print(*{'lightning', 'transformers', 'datasets', 'optuna', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_part_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr(environment, "version", nothing)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    found = environment.environment()
    assert found["peft"] == "not installed; pip install 'peft>=0.18'"
    assert found["optuna-dashboard"].startswith("not installed; pip install 'optuna-dashboard")
    assert "https://github.com/DeepWok/mase" in found["chop"]
    assert found["transformers"] == "not installed"


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    assert environment.environment()["CUDA devices"] == "GPU 0, GPU 1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert environment.environment()["CUDA devices"] == "none"

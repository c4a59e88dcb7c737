"""Fits in several processes, in launched ones, and in one that is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found() -> Any:
    script = Path(__file__).with_name("processes.py")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def test_swapping_layers_in_a_launched_process_is_refused_in_the_main_one(found: Any) -> None:
    for refusal in (*found["refused"].values(), found["calibrated there"]):
        assert "lost when it ends" in refusal
        assert "\n" not in refusal
    for name in ("quantization", "pruning"):
        assert "prepare(module)" in found["refused"][name]
    assert "lightning_adls.calibrate" in found["refused"]["calibration"]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_module_that_was_prepared_comes_back_as_it_was_trained(found: Any, how: str) -> None:
    module = found["trained"][how]
    assert module["trained"]
    assert module["fitted"]
    assert module["kept"] == 0.5
    assert module["losses"][0] == pytest.approx(module["losses"][1], abs=1e-5)


@pytest.mark.parametrize("where", ["within an epoch", "at its end"])
def test_two_processes_resume_bit_for_bit(found: Any, where: str) -> None:
    assert found["resumed"][where]


def test_a_killed_run_goes_on_bit_for_bit(found: Any) -> None:
    assert found["killed"] == {"signal": signal.SIGKILL, "equal": True}

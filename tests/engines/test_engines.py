"""Engines compute every call once, whatever becomes of their workers, and leave none behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calls
import pytest
from calls import Listed
from gone import wait_until_gone

from lightning_adls.engines import Engine, EngineFailed, Lost, Serial, make_engine, resources

ENGINES: dict[str, Callable[[], Engine]] = {
    "serial": Serial,
    "one process": lambda: make_engine("processes", 1),
    "three processes": lambda: make_engine("processes", 3),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    with ENGINES[request.param]() as made:
        yield made


def test_every_call_is_computed_once_and_workers_are_kept(engine: Engine) -> None:
    driver = Listed(calls.square, range(12))
    engine.run(driver)
    assert {name: square for name, (square, _) in driver.results.items()} == {
        str(n): n**2 for n in range(12)
    }
    pids = {pid for _, pid in driver.results.values()}
    assert len(pids) <= engine.workers
    assert set(driver.workers) <= set(range(1, engine.workers + 1))
    again = Listed(calls.square, [1])
    engine.run(again)
    if engine.workers == 1:
        assert {pid for _, pid in again.results.values()} == pids


def test_calls_speak_with_the_driver_and_hear_its_answers(engine: Engine) -> None:
    driver = Listed(calls.asks, [1, 5])
    engine.run(driver)
    assert driver.results == {"1": 2 + 4, "5": 10 + 12}
    assert [said for name, said in driver.said if name == "1"] == [101, 1, 2]


def test_what_a_call_raises_comes_up_and_the_engine_can_be_used_again(engine: Engine) -> None:
    driver = Listed(calls.raises, range(4))
    with pytest.raises(KeyError, match="the third"):
        engine.run(driver)
    driver = Listed(calls.square, [3])
    engine.run(driver)
    assert driver.results["3"][0] == 9


def test_what_calls_share_is_read_once_by_each_worker() -> None:
    with make_engine("processes", 2) as engine:
        driver = Listed(calls.read_by, range(8), calls.Counted())
        engine.run(driver)
    assert {count for _, count in driver.results.values()} == {1}


def test_functions_within_a_script_travel_too() -> None:
    factor = 3

    def times(shared: int, number: int, channel: Any) -> int:
        return factor * shared * number

    with make_engine("processes", 1) as engine:
        driver = Listed(times, [5], shared=2)
        engine.run(driver)
    assert driver.results == {"5": 30}


def test_a_call_whose_process_dies_is_computed_by_another(tmp_path: Path) -> None:
    with make_engine("processes", 2) as engine:
        driver = Listed(calls.dies_once, range(6), tmp_path)
        engine.run(driver)
    assert driver.results == {str(n): n for n in range(6)}
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3", "5"}, "these died"


def test_a_call_that_kills_its_process_each_time_is_given_up_and_the_others_are_not() -> None:
    with make_engine("processes", 2) as engine:
        driver = Listed(calls.dies, range(3))
        engine.run(driver)
    lost = driver.results.pop("1")
    assert isinstance(lost, Lost)
    assert "7" in lost.reason
    assert driver.results == {"0": 0, "2": 2}


def test_workers_that_cannot_start_are_one_sentence() -> None:
    with (
        make_engine("processes", 2, prepare=calls.refuses) as engine,
        pytest.raises(EngineFailed, match=r"workers died, one after another, before"),
    ):
        engine.run(Listed(calls.square, [1]))


def test_closing_ends_workers_in_the_middle_of_their_calls() -> None:
    pids: set[int] = set()

    class Stopping(Listed):
        def heard(self, call: Any, message: Any) -> Any:
            pids.add(message)
            if len(pids) == 2:
                raise KeyboardInterrupt

    def waits(shared: Any, number: int, channel: Any) -> None:
        channel.tell(os.getpid())
        time.sleep(60)

    with make_engine("processes", 2) as engine, pytest.raises(KeyboardInterrupt):
        engine.run(Stopping(waits, range(2)))
    assert wait_until_gone(pids)


DRIVER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from lightning_adls.engines import make_engine
sys.path.insert(0, {here!r})
from calls import Listed

def waits(shared, number, channel):
    import os, time
    channel.tell(os.getpid())
    time.sleep(60)

class Printing(Listed):
    def heard(self, call, message):
        print(message, flush=True)

with make_engine("processes", 2) as engine:
    engine.run(Printing(waits, range(2)))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_driver(how: signal.Signals) -> None:
    code = DRIVER.format(here=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        pids = {int(driver.stdout.readline()) for _ in range(2)}
        # Ctrl-C reaches all processes of a terminal.
        (os.killpg if how == signal.SIGINT else os.kill)(driver.pid, how)
        driver.wait(30)
        said = driver.stderr.read()
    assert wait_until_gone(pids)
    assert said.count("Traceback") == (how == signal.SIGINT), said


def test_each_worker_has_its_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(resources, "cores", lambda: 8)
    monkeypatch.setattr(resources, "gpus", lambda: ["2", "3"])
    made = resources.environments(3)
    assert {each["OMP_NUM_THREADS"] for each in made} == {"2"}
    assert [each["CUDA_VISIBLE_DEVICES"] for each in made] == ["2", "3", "2"]
    assert resources.crowded(3) == "workers=3 share 2 GPUs."
    assert resources.crowded(8, use_gpus=False) is None
    assert str(resources.crowded(9, use_gpus=False)).startswith("workers=9 share 8 cores")
    assert "CUDA_VISIBLE_DEVICES" not in resources.environments(2, use_gpus=False)[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES"]
    with make_engine("processes", 2) as engine:
        driver = Listed(calls.environment, range(4), names)
        engine.run(driver)
    for found in driver.results.values():
        assert [found[name] for name in names[:3]] == ["1", "PASSIVE", "3000"]
        assert found["CUDA_VISIBLE_DEVICES"] in ("2", "3")


def test_wrong_engines_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="workers=0 is below 1"):
        make_engine(workers=0)
    with pytest.raises(ValueError, match="did you mean processes"):
        make_engine("proceses", 2)
    with pytest.raises(ValueError, match="workers=2 need another engine than 'serial'"):
        make_engine("serial", 2)

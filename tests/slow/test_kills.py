"""SIGKILL at random moments, of workers and of drivers: nothing that was stored is lost or redone.

make test-slow
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lightning_adls import search

TRIALS, WORKERS = 200, 4
WORKERS_KILLED, DRIVERS_KILLED = 88, 12
DRIVER = Path(__file__).with_name("driver.py")


def children_of(pid: int) -> list[int]:
    """Its processes that compute: the others are loky's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            command = path.joinpath("cmdline").read_text()
        except OSError:
            continue  # it has ended
        if parent == pid and "popen_loky" in command:
            found.append(int(path.name))
    return found


def start(where: str, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER), where, str(folder), str(TRIALS), str(WORKERS)]
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def wait_for_lines(path: Path, wanted: int, driver: "subprocess.Popen[bytes]") -> None:
    """Wait until a file has so many lines, at most a minute."""

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    deadline = time.monotonic() + 60
    while lines() < wanted and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture(params=["journal", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("database"))
    return f"{tmp_path}/journal"


def test_a_hundred_kills_lose_nothing(url: str, tmp_path: Path) -> None:
    moments = random.Random(0)
    left = ["worker"] * WORKERS_KILLED + ["driver"] * DRIVERS_KILLED
    moments.shuffle(left)
    stored = tmp_path / "stored"
    driver = start(url, tmp_path)
    deadline = time.monotonic() + 3600
    while left and time.monotonic() < deadline:
        # At random moments, spread over three quarters of the search on a machine of any speed.
        killed = WORKERS_KILLED + DRIVERS_KILLED - len(left)
        wait_for_lines(stored, round(0.75 * TRIALS * killed / 100), driver)
        time.sleep(moments.uniform(0.0, 0.5))
        workers = children_of(driver.pid)
        if driver.poll() is not None:
            break
        if left[-1] == "driver":
            driver.kill()
            driver.wait()
            driver = start(url, tmp_path)
            left.pop()
        elif workers:
            os.kill(moments.choice(workers), signal.SIGKILL)
            left.pop()
    said = (tmp_path / "output").read_text()[-2000:]
    assert not left, f"{len(left)} kills were left when the search ended: {said}"
    assert driver.wait(1800) == 0, said

    with search.open_storage(url) as storage:
        study = search.open_study(storage, "kills", {}, optuna.pruners.NopPruner())
        trials, counted = study.get_trials(deepcopy=False), search.counted_trials(study)
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    assert [t.user_attrs["index"] for t in counted] == list(range(TRIALS))
    lines = [line.split() for line in stored.read_text().splitlines()]
    known = {str(t.user_attrs["index"]): repr(t.value) for t in counted}
    assert all(known[index] == value for index, value in lines), "lost or changed"
    assert max(Counter(index for index, _ in lines).values()) == 1, "stored twice"
    ended = set()
    for line in (tmp_path / "judged").read_text().splitlines():
        index, what = line.split()
        assert what == "stored" or index not in ended, "judged again after it was stored"
        if what == "stored":
            ended.add(index)
    places = {t.user_attrs["index"] for t in counted}
    failed = [t for t in trials if t.state == TrialState.FAIL and "error" not in t.user_attrs]
    assert all(t.user_attrs.get("index", 0) in places for t in failed), "has no successor"
    assert [t for t in counted if t.state == TrialState.FAIL] == []

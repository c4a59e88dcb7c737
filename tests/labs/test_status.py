"""`--status` tells how far a run is, and leaves it as it is."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from lightning_adls.errors import InputValueError
from lightning_adls.labs.folders import LOGS
from lightning_adls.labs.run import Run
from lightning_adls.labs.status import status
from lightning_adls.report import Row
from lightning_adls.search import open_storage

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("lab*.py"))

# A run of Lab 3 without a model: its first trial fails, its third waits to be killed.
SEARCHING = """
import sys, time
from pathlib import Path
import optuna
from studies import Plain
from lightning_adls.labs.run import Run
from lightning_adls.search import Search, open_storage, open_study
from lightning_adls.search.failures import TrialFailed
from lightning_adls.search.samplers import SAMPLERS

class Judged(Plain):
    def __call__(self, trial):
        index = trial.user_attrs["index"]
        if index == 0:
            raise TrialFailed("RuntimeError: no kernel\\nfor this")
        if index == 2 and kills:
            trial.report(0.25, 40)
            print("waits", flush=True)
            time.sleep(600)
        return super().__call__(trial)

where, kills = sys.argv[1], sys.argv[2] == "kills"
text = Path("given.yaml").read_text()
journal = Path("lightning_logs/lab3/test/search.journal")
with Run("lab3", "test", text) as lab, open_storage(where or journal) as store:
    lab.begin()
    name = "lab3/test/Integer" if where else "Integer"
    study = open_study(store, name, {}, optuna.pruners.NopPruner())
    Search(study, Judged(lab.folder), SAMPLERS["grid"], 4).run()
"""
# Says of whatever it does that changes something, or might make another process wait.
WATCHED = """
import os, runpy, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def watch(event, arguments):
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate", "os.chmod", "os.utime")
    if opened or changes or event in ("fcntl.flock", "fcntl.lockf", "fcntl.fcntl"):
        print("CHANGES", event, arguments)
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status", end.code, "torch" in sys.modules)
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents() -> dict[str, tuple[int, bytes]]:
    """Whatever lies here, and when it was written, folders included."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(Path().rglob("*"))
    }


def asked(script: Path, *arguments: str) -> str:
    """What a script answers in a process of its own, in which nothing is changed."""
    before = contents()
    result = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, str(script), "--status", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert contents() == before
    *lines, last = result.stdout.splitlines()
    assert last == "status 0 False", result.stderr
    assert not [line for line in lines if "CHANGES" in line]
    assert result.stderr == ""
    return "\n".join(lines)


def matching(pattern: str, text: str) -> str:
    """A line of a text."""
    found = [line for line in text.splitlines() if re.search(pattern, line)]
    assert found, f"{pattern!r} is not in\n{text}"
    return found[0]


@pytest.fixture(params=["journal", "sqlite"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "" if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


@contextmanager
def begin(where: str, how: str) -> Iterator["subprocess.Popen[str]"]:
    """The search in a process of its own, which does not outlive the block."""
    path = f"{ROOT}:{ROOT / 'tests' / 'search'}"
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCHING, where, how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with process:
        try:
            yield process
        finally:
            if how == "kills":
                process.kill()


@pytest.mark.long
def test_a_search_that_runs_is_killed_and_ends(where: str) -> None:
    given: Row = {"studies": {"Integer": [], "Log": []}, "only": None, "trials": 4, "run": "test"}
    Path("given.yaml").write_text(yaml.safe_dump({**given, "storage": where or None}))
    script = ROOT / "scripts" / "lab3_mixed_precision.py"
    with begin(where, "kills") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waits\n"
        running.send_signal(signal.SIGSTOP)  # whatever is changed now, it is not by the run
        text = asked(script, "--run=test")
        process = rf"process {running.pid} on \S+"
        assert re.match(rf"lab3/test: running for .*, {process}\n", text)
        assert matching("trials in", text) == "2 of 8 trials in 2 studies"
        assert re.search(r"2/4 +\d\.0000 trial 2 +0 +1 +running$", matching("Integer ", text))
        assert re.search(
            rf"{process}, heard of \d+ s ago: trial 3 \(0.2500 at 40%\)$", matching("heard", text)
        )
        assert re.search(r"0/4 +not begun$", matching("Log", text))
        failed = "Integer trial 1 failed: RuntimeError: no kernel for this"
        assert matching("failed:", text).strip() == failed
        running.kill()
        running.wait()
    if not where:
        with Path("lightning_logs/lab3/test/search.journal").open("ab") as file:
            file.write(b'{"op_code": 6, "worker_')  # a line that is torn
    text = asked(script, "--run", "test", "--trials", "9")
    assert re.match(rf"lab3/test: interrupted: {process} is gone; the same command con", text)
    assert matching("Integer ", text).endswith("stopped")
    stopped = "stopped, and run again by the same command: trial 3 (0.2500 at 40%)"
    assert matching("run again", text).strip() == stopped
    if where:
        return  # how it ends is the same
    with begin(where, "") as running:
        assert running.wait() == 0
    text = asked(script, "--run=test")
    assert re.match(r"lab3/test: complete; ended \d+ s ago\n", text)
    assert re.search(r"4/4 .* complete$", matching("Integer ", text))
    assert "run again" not in text


def test_steps_that_are_done_running_and_missing() -> None:
    text = "seed: 0\n"

    def fails() -> Row:
        assert matching("lab1/x", status("lab1", ["--run=x"], {})).startswith("lab1/x: running")
        assert re.search("running +b +worker 1, since 0 s", status("lab1", ["--run=x"], {}))
        raise RuntimeError

    def part() -> None:
        with Run("lab1", "x", text) as run:
            run.plan(["a", "b", "c"])
            run.step("a", lambda: {"accuracy": 0.75})
            run.step("b", fails)

    with pytest.raises(RuntimeError):
        part()
    before = contents()
    found = status("lab1", ["--run=x"], {})
    assert found.startswith("lab1/x: interrupted; ended 0 s ago")
    assert re.search(r"done +a +0\.7500 +0\.0 s", found)
    assert "  stopped  b" in found
    assert "  missing  c" in found
    assert "steps: 1 done, 1 begun, 1 missing" in found
    with Run("lab1", "x", text) as run:
        pass  # of other arguments, and refused before it did anything: it is what it was
    assert contents().keys() == before.keys()
    with Run("lab1", "x", text) as run:
        for step in "abc":
            run.step(step, lambda: {"accuracy": 0.5})
    found = status("lab1", ["--run=x"], {})
    assert found.startswith("lab1/x: complete; ended 0 s ago")
    assert "steps: 3 done\n" in found


def test_a_call_that_is_refused_says_nothing_of_a_run_that_is_complete() -> None:
    with Run("lab4", "x", "seed: 0\n") as run:
        run.step("a", dict)
    before = contents()
    with pytest.raises(InputValueError):
        Run("lab4", "x", "seed: 1\n")
    with pytest.raises(KeyboardInterrupt), Run("lab4", "x", "seed: 0\n"):
        raise KeyboardInterrupt
    assert {k: v for k, v in contents().items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }
    assert status("lab4", ["--run=x"], {}).startswith("lab4/x: complete")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "running for"),
        # Another process has the number now.
        ({"started": 1}, "interrupted: process"),
        ({"machine": "elsewhere", "host": "far"}, "not complete; process {pid} on far, another"),
    ],
)
def test_whose_process_a_run_is(change: dict[str, Any], state: str) -> None:
    run = Run("lab4", "x", "seed: 0\n")
    run.begin()
    path = LOGS / "lab4" / "x" / "activity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = status("lab4", ["--run=x"], {})
    run.close()
    assert found.startswith(f"lab4/x: {state.format(pid=os.getpid())}")


def test_a_run_of_an_earlier_version_is_not_taken_for_one_that_is_not_begun() -> None:
    with Run("lab4", "x", "seed: 0\n") as run:
        run.step("a", dict)
    (LOGS / "lab4" / "x" / "activity.json").unlink()
    assert status("lab4", ["--run=x"], {}).startswith("lab4/x: not known: an earlier version")


def test_a_run_on_another_machine_runs_as_long_as_it_renews_its_lease(tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path}/studies.db"
    elsewhere = {"machine": "elsewhere", "host": "far", "pid": 7}
    given: Row = {"studies": {"Integer": []}, "only": None, "trials": 4, "storage": where}
    run = Run("lab3", "x", yaml.safe_dump(given))
    run.begin()
    path = LOGS / "lab3" / "x" / "activity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **elsewhere}))
    run.close()
    begun = json.loads(path.read_text())["begun"]
    with open_storage(where) as storage:
        study = optuna.create_study(storage=storage, study_name="lab3/x/Integer")
        study.set_user_attr("lease/a", {**elsewhere, "time": begun, "number": 1, "held": True})
        assert status("lab3", ["--run=x"], {}).startswith("lab3/x: running for")
        study.set_user_attr("lease/a", None)
    assert status("lab3", ["--run=x"], {}).startswith("lab3/x: not complete; process 7 on far")


def test_studies_that_lab_2_will_have() -> None:
    given: Row = {
        "samplers": {"random": {}, "grid": {}},
        "only": None,
        "seeds": [0, 1],
        "trials": 3,
    }
    with Run("lab2", "x", yaml.safe_dump(given)) as run:
        run.begin()
    found = status("lab2", ["--run=x"], {})
    assert "0 of 24 trials in 8 studies" in found
    for name in ("plain/random/0", "plain/grid/1", "aware/.../0", "aware_retrained/.../1"):
        assert matching(re.escape(name), found).endswith("0/3" + " " * 34 + "not begun")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_run_that_is_not_there_is_told_with_those_that_are(script: Path) -> None:
    lab = script.stem.partition("_")[0]
    for name in ("mine", "deep/er"):
        with Run(lab, name, "seed: 0\n") as run:
            run.begin()
    result = subprocess.run(
        [sys.executable, str(script), "--status", "--run", "mien"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2
    assert result.stdout == ""
    told = f"error: {lab}: run='mien' is not there; did you mean mine? there are deep/er, mine.\n"
    assert result.stderr == told


def test_which_run_is_meant() -> None:
    Path("a.yaml").write_text("run: a\n")
    for name in ("a", "b", "default"):
        with Run("lab4", name, "seed: 0\n") as run:
            run.begin()
    for arguments, name in (
        ([], "default"),
        (["--config", "a.yaml"], "a"),
        (["--config=a.yaml", "--run", "b"], "b"),
        (["--run=b", "--config=a.yaml"], "a"),
    ):
        assert status("lab4", arguments, {"run": "default"}).startswith(f"lab4/{name}: complete")
    with pytest.raises(InputValueError, match=r"--config: c\.yaml cannot be read"):
        status("lab4", ["--config=c.yaml"], {})


def test_a_database_that_is_not_there_is_not_made() -> None:
    given: Row = {"studies": {"Integer": []}, "only": None, "trials": 4}
    with Run("lab3", "x", yaml.safe_dump(given)) as run:
        run.begin()
    with pytest.raises(InputValueError, match=r"sqlite:///none\.db cannot be read: .*unable to"):
        status("lab3", ["--run=x", "--storage=sqlite:///none.db"], {})
    assert not Path("none.db").exists()

"""Several processes share a storage: each study has one that runs it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from studies import Plain, run, study_of

from lightning_adls import search
from lightning_adls.errors import InputValueError
from lightning_adls.process import machine
from lightning_adls.search import Search, lease
from lightning_adls.search.lease import Lease, hold

needs_waitid = pytest.mark.skipif(
    not hasattr(os, "waitid"), reason="this system does not tell that a process was stopped"
)
ELSEWHERE = {"host": "elsewhere", "machine": "elsewhere", "pid": 7, "number": 3, "held": True}
ANOTHER = rf"'study' is being run by process {os.getpid()} on .*; wait for it to end"


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def where(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("database"))
    return {"sqlite": f"sqlite:///{tmp_path}/studies.db", "journal": f"{tmp_path}/journal"}[
        request.param
    ]


def claims(study: optuna.Study) -> list[dict[str, Any]]:
    return [claim for key, claim in study.user_attrs.items() if key.startswith("lease/") and claim]


def test_a_study_that_runs_is_refused_to_others_and_is_free_afterwards(
    where: str, tmp_path: Path
) -> None:
    study = study_of(where)
    with hold(study):
        with pytest.raises(InputValueError, match=ANOTHER), hold(study_of(where)):
            pytest.fail("both hold it")
        objective: Any = Plain(tmp_path)
        with pytest.raises(InputValueError, match=ANOTHER):
            Search(study, objective).check_free()
        (claim,) = claims(study)
        assert claim["pid"] == os.getpid()
    assert claims(study) == []
    with pytest.raises(ZeroDivisionError), hold(study_of(where)):
        raise ZeroDivisionError
    with hold(study_of(where)):
        pass


def test_a_refused_process_leaves_the_running_trial_alone(where: str, tmp_path: Path) -> None:
    def judge(_: int) -> float:
        objective: Any = Plain(tmp_path)
        with pytest.raises(InputValueError, match="is being run by"):
            run(study_of(where), objective, 3)
        return 1.0

    study, objective = study_of(where), Plain(tmp_path, judge)
    run(study, objective, 2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


@pytest.mark.parametrize("where", ["journal"], indirect=True)
@pytest.mark.parametrize(
    ("claim", "stale"),
    [
        ({}, False),
        ({"time": -30}, False),
        ({"time": -61}, True),
        ({"machine": None, "pid": os.getppid(), "time": -30}, False),
        ({"machine": None, "pid": None}, True),
        ({"machine": None, "pid": os.getppid(), "started": 1}, True),  # another got its number
        ({"machine": None, "pid": os.getppid(), "started": None}, False),
        ({"pid": None, "started": 1}, False),  # of another machine
    ],
)
def test_a_lease_is_stale_when_its_process_is_gone_or_silent_for_a_minute(
    where: str, claim: dict[str, Any], stale: bool
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim = {**ELSEWHERE, **claim, "time": time.time() + claim.get("time", 0)}
    claim["machine"] = claim["machine"] or machine()
    claim["pid"] = claim["pid"] or gone.pid
    if sys.platform != "linux" and claim.get("started"):
        pytest.skip("only Linux tells when a process started")
    study = study_of(where)
    study.set_user_attr("lease/other", claim)
    if stale:
        with hold(study):
            assert len(claims(study)) == 1, "what is stale is struck out"
    else:
        with (
            pytest.raises(InputValueError, match=f"process {claim['pid']} on elsewhere"),
            hold(study),
        ):
            pytest.fail("held by another")
        assert len(claims(study)) == 1, "only the other's"


def test_a_lease_is_renewed_while_it_is_held(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.01)
    study = study_of(where)
    with hold(study):
        first = claims(study)[0]["time"]
        deadline = time.monotonic() + 60
        while claims(study)[0]["time"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lease_is_written_again_only_after_a_quarter_of_its_time(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, written = study_of(where), list[str]()
    write = Lease._write

    def noted(self: Lease) -> None:
        written.append(self._key)
        write(self)

    monkeypatch.setattr(Lease, "_write", noted)
    with hold(study) as held, monkeypatch.context() as moved:
        for seconds, writes in ((14.9, False), (15.0, True), (60.0, True), (-1.0, True)):
            before, now = len(written), claims(study)[0]["time"] + seconds
            moved.setattr(time, "time", lambda now=now: now)
            held.check()
            assert (len(written) > before) == writes
            assert (claims(study)[0]["time"] == now) == writes


def test_no_trial_of_a_short_search_writes_the_lease(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 3600.0)  # on a slow machine, too
    written = list[str]()
    write = Lease._write

    def noted(self: Lease) -> None:
        written.append(self._key)
        write(self)

    monkeypatch.setattr(Lease, "_write", noted)
    with hold(study_of(where)):
        taken = len(written)
    objective: Any = Plain(tmp_path)
    run(study_of(where), objective, 9, "random")
    assert len(written) == 2 * taken


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_that_slept_while_another_took_over_stops(
    where: str, tmp_path: Path, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(where)

    def sleep(_: int) -> float:
        with monkeypatch.context() as later:
            later.setattr(lease, "STALE_SECONDS", -1.0)  # a minute has passed
            other = Lease(study_of(where))
            other.acquire()
        if ended:
            other.release()
        assert not mine[0].renew(), "as its thread does, when it is awake again"
        return 1.0

    mine: list[Lease] = []
    begin = Lease.__init__

    def noted(self: Lease, study: optuna.Study) -> None:
        begin(self, study)
        mine.append(self)

    monkeypatch.setattr(Lease, "__init__", noted)
    objective: Any = Plain(tmp_path, sleep)
    with pytest.raises(InputValueError, match="was taken over by"):
        run(study, objective, 3)
    assert search.counted_trials(study) == []


def shared(where: str) -> optuna.Study:
    """The study, also in a journal that several processes write without our lock."""
    if "://" in where:
        return study_of(where)
    return optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(where)))


def claim_at(where: str, start: Any, tried: Any, results: Any) -> None:
    """What each of the processes does."""
    study = shared(where)
    start.wait()
    try:
        with hold(study):
            results.put("held")
            tried.wait()
    except InputValueError:
        results.put("refused")
        tried.wait()


def test_of_processes_that_start_at_the_same_moment_one_wins(where: str) -> None:
    study_of(where)
    context = multiprocessing.get_context("fork")
    start, tried, results = context.Barrier(4), context.Barrier(4, timeout=60), context.Queue()
    arguments = (where, start, tried, results)
    workers = [context.Process(target=claim_at, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    ends = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert ends == ["held", "refused", "refused", "refused"]


def test_of_many_threads_that_claim_at_once_exactly_one_wins() -> None:
    study = optuna.create_study()

    def claim(start: Barrier) -> Lease | None:
        lease = Lease(study)
        start.wait()
        try:
            lease.acquire()
        except InputValueError:
            return None
        return lease

    with ThreadPoolExecutor(6) as pool:
        for _ in range(20):
            claimed = [pool.submit(claim, start) for start in [Barrier(6)] * 6]
            (winner,) = (lease for each in claimed if (lease := each.result()))
            winner.release()


def drive(where: str, folder: Path, stopped_by: int, within: str, results: Any) -> None:
    """A driver that stops itself in its second trial, before or after it checks its lease."""
    seen = 0

    def judge(number: int) -> float:
        nonlocal seen
        seen += 1
        if seen == 2 and within == "judging":
            os.kill(os.getpid(), stopped_by)
        return float(number)

    class Stopping(Lease):
        def check(self) -> None:
            super().check()
            if seen == 2 and within == "telling":
                os.kill(os.getpid(), stopped_by)

    objective: Any = Plain(folder, judge)
    study = shared(where)
    study.sampler = optuna.samplers.RandomSampler(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "Lease", Stopping)
        try:
            with hold(study) as held:
                for index in range(3):
                    trial = study.ask()
                    trial.set_user_attr("index", index)
                    held.tell(trial, objective(trial), TrialState.COMPLETE)
            results.put("ended")
        except InputValueError as error:
            results.put(str(error))


@pytest.fixture
def stopped(where: str, tmp_path: Path) -> Iterator[Callable[[int, str], Any]]:
    """A driver in a process of its own, when it has stopped itself, and what it says in the end."""
    context = multiprocessing.get_context("fork")
    processes = []

    def start(stopped_by: int, within: str = "judging") -> Any:
        study_of(where)
        results = context.SimpleQueue()
        process = context.Process(target=drive, args=(where, tmp_path, stopped_by, within, results))
        process.start()
        processes.append(process)
        assert process.pid is not None
        # Its end is left to be asked for: until then a killed one is there, but does not run.
        flags = os.WEXITED | os.WSTOPPED | os.WNOWAIT
        assert os.waitid(os.P_PID, process.pid, flags) is not None
        return SimpleNamespace(process=process, results=results)

    yield start
    for process in processes:
        process.kill()
        process.join()


@needs_waitid
def test_the_study_of_a_killed_driver_is_free_at_once(
    where: str, tmp_path: Path, stopped: Callable[[int, str], Any]
) -> None:
    stopped(signal.SIGKILL, "judging")
    study, objective = study_of(where), cast(Any, Plain(tmp_path))
    run(study, objective, 3)
    assert [trial.user_attrs["index"] for trial in search.counted_trials(study)] == [0, 1, 2]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 2]


@needs_waitid
@pytest.mark.parametrize("within", ["judging", "telling"])
def test_a_driver_that_wakes_up_after_a_take_over_ends_in_one_line_and_stores_nothing(
    where: str,
    tmp_path: Path,
    stopped: Callable[[int, str], Any],
    within: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleeper = stopped(signal.SIGSTOP, within)
    study, objective = shared(where), cast(Any, Plain(tmp_path))
    with pytest.raises(InputValueError, match=f"process {sleeper.process.pid} on .* s ago"):
        run(study, objective, 3)
    monkeypatch.setattr(lease, "STALE_SECONDS", -1.0)  # a minute has passed
    before = run(study, objective, 3)
    os.kill(sleeper.process.pid, signal.SIGCONT)
    message = sleeper.results.get()
    assert "was taken over by another process" in message
    assert "\n" not in message
    study = shared(where)
    assert [(trial.params, trial.value) for trial in search.counted_trials(study)] == before
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 2]
    assert claims(study) == []


def test_a_result_that_cannot_be_told_is_not_taken_for_a_lost_study(where: str) -> None:
    study = study_of(where)
    with hold(study) as held, pytest.raises(ValueError, match="could not be cast to float"):
        held.tell(study.ask(), cast(Any, "much"), TrialState.COMPLETE)


def test_a_holder_that_slept_sees_who_came_after_it_though_that_has_ended(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(where)
    first = Lease(study)
    first.acquire()
    with monkeypatch.context() as later:
        later.setattr(lease, "STALE_SECONDS", -1.0)
        with hold(study_of(where)):
            pass
    first._write()  # was about to renew when it fell asleep
    with pytest.raises(InputValueError, match="was taken over by another process"):
        first.check()
    first.release()
    with hold(study):
        pass


def test_two_machines_run_two_studies_of_one_storage(where: str, tmp_path: Path) -> None:
    objective: Any = Plain(tmp_path)
    with search.open_storage(where) as storage:
        pruner = optuna.pruners.NopPruner()
        one, two = (search.open_study(storage, name, {}, pruner) for name in ("one", "two"))
        with hold(one):
            Search(two, objective, trials=2).run()
    assert len(search.counted_trials(two)) == 2

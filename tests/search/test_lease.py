"""Several processes share a storage: each study has one that runs it."""

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from studies import Plain, run, study_of

from lightning_adls import search
from lightning_adls.errors import InputValueError
from lightning_adls.process import machine
from lightning_adls.search import Search, lease
from lightning_adls.search.lease import Lease, hold

ELSEWHERE = {"host": "elsewhere", "machine": "elsewhere", "pid": 7, "number": 3, "held": True}
ANOTHER = rf"'study' is being run by process {os.getpid()} on .*; wait for it to end"


@pytest.fixture
def where(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


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
    run(study, objective, 2)  # type: ignore[arg-type]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


@pytest.mark.parametrize(
    ("claim", "stale"),
    [
        ({}, False),
        ({"time": -30}, False),
        ({"time": -61}, True),
        ({"machine": None, "pid": os.getppid(), "time": -30}, False),
        ({"machine": None, "pid": None}, True),
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


def claim_at(where: str, start: Any, tried: Any, results: Any) -> None:
    """What each of the processes does."""
    storage: Any = where
    if "://" not in where:  # a journal that is shared without our lock
        storage = JournalStorage(JournalFileBackend(where))
    study = optuna.load_study(study_name="study", storage=storage)
    start.wait()
    try:
        with hold(study):
            results.put("held")
            tried.wait()
    except InputValueError:
        results.put("refused")
        tried.wait()


@pytest.mark.parametrize("where", ["sqlite:///{}/studies.db", "{}/journal"])
def test_of_processes_that_start_at_the_same_moment_one_wins(tmp_path: Path, where: str) -> None:
    where = where.format(tmp_path)
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


def test_two_machines_run_two_studies_of_one_storage(where: str, tmp_path: Path) -> None:
    objective: Any = Plain(tmp_path)
    with search.open_storage(where) as storage:
        pruner = optuna.pruners.NopPruner()
        one, two = (search.open_study(storage, name, {}, pruner) for name in ("one", "two"))
        with hold(one):
            Search(two, objective, trials=2).run()
    assert len(search.counted_trials(two)) == 2

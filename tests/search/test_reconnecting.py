"""A database that goes away in the middle of a search."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from postgres import PASSWORD, Server
from studies import Plain, Trials, run, study_of

from lightning_adls import search
from lightning_adls.errors import InputValueError
from lightning_adls.search import lease, reconnecting
from lightning_adls.search.reconnecting import ReconnectingStorage, StorageLostError

TRIALS = 4
SAID = "lightning_adls.search.reconnecting"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(reconnecting, "_LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.2)
    # Optuna's own pauses, of two seconds at most, when a trial cannot be made.
    without = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    monkeypatch.setattr("optuna.storages._rdb.storage.time", without)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_at(str(folder / "journal"), folder)


def run_at(where: str, folder: Path, value: Callable[[int], float] = float) -> Trials:
    objective: Any = Plain(folder, value)
    return run(study_of(where), objective, TRIALS)


def storage_of(study: optuna.Study) -> ReconnectingStorage:
    return cast(ReconnectingStorage, study._storage)


@contextmanager
def away(server: Server) -> Iterator[None]:
    """Stop the server for the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def test_a_search_outlives_its_database(
    server: Server,
    database: str,
    tmp_path: Path,
    undisturbed: Trials,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outages: list[Thread] = []

    def judge(number: int) -> float:
        if not outages:
            server.stop()
            outages.append(Timer(0.5, server.start))
            outages[0].start()
        return float(number)

    with caplog.at_level(logging.WARNING, SAID):
        assert run_at(database, tmp_path, judge) == undisturbed
    outages[0].join()
    first, second = (record.getMessage() for record in caplog.records if record.name == SAID)
    assert "is away" in first
    assert "trying again for 300 s" in first
    assert PASSWORD not in first
    assert second.endswith("is back.")
    study = study_of(database)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * TRIALS


def losing(storage: ReconnectingStorage, every: int, done: bool) -> list[str]:
    """Cut the connection at each so manieth commit, before it is done or before it is told."""
    from psycopg import OperationalError

    dialect: Any = storage._backend.engine.dialect
    commit = dialect.do_commit
    seen, lost = 0, []

    def do_commit(connection: Any) -> None:
        nonlocal seen
        seen += 1
        cut = seen % every == 0
        if done or not cut:
            commit(connection)
        if cut:
            connection.driver_connection.close()
            lost.append(f"commit {seen}")
            raise OperationalError("the connection was cut")

    dialect.do_commit = do_commit
    return lost


@pytest.mark.long
@pytest.mark.parametrize("done", [True, False], ids=["answer", "request"])
@pytest.mark.parametrize("every", [3, 5])
def test_whatever_answer_or_request_is_lost_each_trial_is_there_once(
    database: str, tmp_path: Path, undisturbed: Trials, every: int, done: bool
) -> None:
    study, objective = study_of(database), cast(Any, Plain(tmp_path))
    lost = losing(storage_of(study), every, done)
    assert run(study, objective, TRIALS) == undisturbed
    assert len(lost) > 5
    study = study_of(database)
    assert [trial.user_attrs["index"] for trial in search.counted_trials(study)] == [*range(TRIALS)]
    left = {trial.state for trial in study.trials} - {TrialState.COMPLETE}
    assert left <= {TrialState.FAIL}, "a trial that was made twice is closed"


@pytest.mark.parametrize(
    ("state", "values"), [(TrialState.COMPLETE, [0.5]), (TrialState.FAIL, None)]
)
def test_a_trial_that_another_has_closed_is_not_taken_for_told(
    database: str, state: TrialState, values: list[float] | None
) -> None:
    study = study_of(database)
    trial = study.ask()
    other = study_of(database)
    backend = storage_of(study)._backend
    finish = backend.set_trial_state_values

    def overtaken(*_: Any, **__: Any) -> bool:
        backend.set_trial_state_values = finish  # type: ignore[method-assign]
        other.tell(trial.number, state=state, values=values)
        raise lost_connection()

    backend.set_trial_state_values = overtaken  # type: ignore[method-assign]
    with pytest.raises(UpdateFinishedTrialError):
        study.tell(trial, 0.75)


def lost_connection() -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("SELECT 1", {}, Exception("the connection was cut"))


def test_a_database_that_stays_away_ends_the_search_in_one_line_and_loses_nothing(
    server: Server,
    database: str,
    tmp_path: Path,
    undisturbed: Trials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []

    def judge(number: int) -> float:
        judged.append(number)
        if len(judged) == 3:
            server.stop()
        return float(number)

    monkeypatch.setattr(reconnecting, "RETRY_SECONDS", 0.2)
    try:
        with pytest.raises(StorageLostError, match=r"has been away for 0\.2 s: .*refused") as ended:
            run_at(database, tmp_path, judge)
    finally:
        server.start()
    assert str(ended.value).count("\n") == 0
    assert PASSWORD not in str(ended.value)
    counted = search.counted_trials(study_of(database))
    assert len([trial for trial in counted if "same_as" not in trial.user_attrs]) == 2
    monkeypatch.setattr(lease, "STALE_SECONDS", -1.0)  # as if this were another process
    assert run_at(database, tmp_path) == undisturbed


def test_who_is_interrupted_while_waiting_does_not_wait_again(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(database)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with away(server), monkeypatch.context() as once:
        once.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.set_user_attr("a", 1)
        with pytest.raises(StorageLostError):
            study.set_user_attr("a", 2)
    study.set_user_attr("a", 3)
    assert study_of(database).user_attrs["a"] == 3


def test_an_error_that_would_come_again_is_raised_at_once(database: str) -> None:
    study = study_of(database)
    with pytest.raises(KeyError, match="does not exist"):
        study._storage.get_trial(99)
    with pytest.raises(StorageInternalError):
        study.set_user_attr("a" * 1000, 1)  # longer than the column


def test_what_a_database_refuses_is_told_at_once_in_one_line(
    server: Server, database: str, tmp_path: Path
) -> None:
    user = database.partition("://")[2].partition(":")[0]
    study = study_of(database)
    server.execute(f"REVOKE INSERT ON ALL TABLES IN SCHEMA {user} FROM {user}")
    with pytest.raises(InputValueError, match="permission denied for table study_user_attr") as no:
        study.set_user_attr("a", 1)
    assert PASSWORD not in str(no.value)
    server.execute(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    with pytest.raises(InputValueError, match=r"refuses .* in a read-only transaction\.$"):
        study_of(database, {"seed": 1})

    study_of(f"sqlite:///{tmp_path}/studies.db")
    with pytest.raises(InputValueError, match=r"refuses .* attempt to write a readonly database"):
        study_of(f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true")


def test_a_locked_sqlite_file_is_waited_for(tmp_path: Path) -> None:
    study = study_of(f"sqlite:///{tmp_path}/studies.db?timeout=0.01")
    other = sqlite3.connect(tmp_path / "studies.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = Timer(0.3, other.rollback)
    release.start()
    study.set_user_attr("a", 1)
    release.join()
    assert study.user_attrs["a"] == 1

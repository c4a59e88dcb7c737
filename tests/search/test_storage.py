"""Where studies are kept, and what is wrong with an address that leads nowhere."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from lightning_adls import search
from lightning_adls.errors import InputValueError, MissingPackageError


@pytest.mark.parametrize("where", ["{}/a/b/journal", "sqlite:///{}/a/b/studies.db"])
def test_the_folder_of_a_storage_is_made(tmp_path: Path, where: str) -> None:
    with search.open_storage(where.format(tmp_path)) as storage:
        assert storage.get_all_studies() == []
    assert len(list((tmp_path / "a" / "b").iterdir())) > 0


@pytest.mark.parametrize("where", ["{}/file/journal", "sqlite:///{}/file/studies.db"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            InputValueError, match=r"the folder of .*file.* cannot be made: File exists\."
        ),
        search.open_storage(where.format(tmp_path)),
    ):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("url", "message", "kind"),
    [
        ("nosuch://host/name", "nosuch://host/name cannot be opened: .*nosuch", InputValueError),
        ("://", "is no URL of a database; it has the form postgresql://", InputValueError),
        ("redis://host", "redis://host cannot be opened: ", InputValueError),
        ("sqlite:////proc/nothing.db", "cannot be opened: .*unable to open", InputValueError),
        ("postgresql+nosuch://host/name", "cannot be opened: ", InputValueError),
        ("firebird://host/name", "firebird", InputValueError),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_one_sentence(
    url: str, message: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=message) as caught, search.open_storage(url):
        pytest.fail("opened")
    assert "\n" not in str(caught.value)


def test_a_driver_that_is_missing_is_named_and_the_password_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    with (
        pytest.raises(MissingPackageError, match=r"pip install psycopg2-binary") as caught,
        search.open_storage("postgresql://me:secret@localhost:1/name"),
    ):
        pytest.fail("opened")
    assert "secret" not in str(caught.value)


def open_at(where: str, start: Any, results: Any) -> None:
    """What each of the processes does."""
    start.wait()
    try:
        with search.open_storage(where) as storage:
            search.open_study(storage, "study", {"seed": 0}, optuna.pruners.NopPruner())
        results.put("opened")
    except Exception as error:
        results.put(repr(error))


def test_processes_that_start_at_the_same_moment_share_a_new_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for n in range(5):
        start, results = context.Barrier(4), context.Queue()
        where = f"sqlite:///{tmp_path}/{n}.db"
        workers = [context.Process(target=open_at, args=(where, start, results)) for _ in range(4)]
        for worker in workers:
            worker.start()
        assert [results.get(timeout=60) for _ in workers] == ["opened"] * 4
        for worker in workers:
            worker.join()


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with search.open_storage(path):
        child = os.fork()
        if child == 0:
            try:
                with search.open_storage(path):
                    os._exit(1)
            except ValueError as error:
                os._exit(0 if "belongs to a run that is going on" in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

"""Where studies are kept, and what is wrong with an address that leads nowhere."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from postgres import PASSWORD, Server
from studies import study_of

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


def refused(where: str | Path, *parts: str) -> None:
    """Opening it is refused in one line that has these parts, and no password."""
    with pytest.raises(InputValueError) as caught, search.open_storage(where):
        pytest.fail("opened")
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert PASSWORD not in message
    for part in parts:
        assert part in message


def test_a_driver_that_is_missing_is_named_and_the_password_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for scheme in ("postgresql", "postgresql+psycopg"):
        where = f"{scheme}://me:secret@localhost:1/name"
        refused(where, "pip install 'psycopg[binary]>=3.2'")
        with pytest.raises(MissingPackageError), search.open_storage(where):
            pytest.fail("opened")


def test_a_server_that_is_not_there_is_refused_in_one_line() -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as other:  # bound, but not listening
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        where = f"postgresql://me:secret@127.0.0.1:{port}/name"
        refused(where, f"me:***@127.0.0.1:{port}/name cannot be opened", "Connection refused")


def test_a_host_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refused("postgresql://me:secret@elsewhere/name", "elsewhere", "Name or service not known")


def test_who_is_not_let_in_is_told_why_in_one_line(server: Server) -> None:
    refused(server.url(password="secret"), "password authentication failed for user")
    refused(server.url(user="nobody"), "password authentication failed for user")
    refused(server.url(name="nothing"), 'database "nothing" does not exist')
    server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
    refused(server.url(user="reader"), "permission denied for schema public")


def test_tables_of_another_program_are_refused_in_one_line(server: Server, database: str) -> None:
    study_of(database)
    user = database.partition("://")[2].partition(":")[0]
    server.execute(f"UPDATE {user}.alembic_version SET version_num = 'v9.9.9'")
    refused(database, "no longer compatible with the table schema")


def test_a_postgresql_url_is_opened_with_psycopg_3_and_any_password(server: Server) -> None:
    server.execute(
        "CREATE ROLE braces LOGIN PASSWORD '{a}%@/b'", "CREATE SCHEMA AUTHORIZATION braces"
    )
    with search.open_storage(server.url("braces", "%7Ba%7D%25%40%2Fb")) as storage:
        assert storage._backend.engine.driver == "psycopg"  # type: ignore[attr-defined]
        assert storage.get_all_studies() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_journal_that_cannot_be_written_is_refused_in_one_line(small: Path) -> None:
    study_of(small / "journal")
    lines = (small / "journal").read_bytes()
    rest = small / "rest"
    with pytest.raises(OSError, match="No space"):
        rest.write_bytes(bytes(2**20))
    refused(small / "journal", "journal cannot be written: No space left on device")
    refused(small / "other", "cannot be written: No space left on device")
    assert (small / "journal").read_bytes() == lines
    rest.unlink()
    study_of(small / "journal")

    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    refused(small / "journal", "cannot be written: Read-only file system")
    refused(small / "new", "cannot be written: Read-only file system")


def test_a_disk_that_fills_up_tears_no_line_of_a_journal(small: Path) -> None:
    study = study_of(small / "journal")
    for number in range(20):
        study.set_user_attr(str(number), "x" * 10_007)
    with pytest.raises(InputValueError, match="No space left on device; what is in it stays"):
        study.set_user_attr("large", "x" * 100_000)
    study.set_user_attr("small", 1)  # as the driver does, which closes its trials
    whole = small.parent / "journal"
    whole.write_bytes((small / "journal").read_bytes())
    assert len(study_of(whole).user_attrs) == 22, "with the settings"


def open_at(where: str, start: Any, results: Any) -> None:
    """What each of the processes does."""
    start.wait()
    try:
        with search.open_storage(where) as storage:
            search.open_study(storage, "study", {"seed": 0}, optuna.pruners.NopPruner())
        results.put("opened")
    except Exception as error:
        results.put(repr(error))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_at_the_same_moment_share_a_new_database(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    context = multiprocessing.get_context("fork")
    for n in range(2):
        start, results = context.Barrier(4), context.Queue()
        where = f"sqlite:///{tmp_path}/{n}.db"
        if kind == "postgresql":
            where = request.getfixturevalue("server").empty()
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
                holder = f"in process {os.getppid()} on {socket.gethostname()} (since "
                os._exit(0 if f"belongs to a run that is going on {holder}" in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

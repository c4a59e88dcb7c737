"""A PostgreSQL server of the tests' own, which they may stop and start again.

Needs the server's programs: Debian's package `postgresql`.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

USER, PASSWORD = "tester", "sesame"


def reason_to_skip() -> str | None:
    """Why there is no server here; None if there is one."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'psycopg[binary]'"
    if _programs() is None:
        return "there is no PostgreSQL server: apt-get install postgresql"
    return None


def _programs() -> Path | None:
    """The folder of the newest server; Debian has a folder for each version, and none in PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Server:
    """A server on a port of 127.0.0.1, whose data are in a folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        # It refuses to be run by root.
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._numbers = count()
        self._stop = [str(programs / "pg_ctl"), f"--pgdata={folder / 'data'}"]
        self._stop += ["-w", "-m", "immediate", "stop"]
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._call(
            *("initdb", f"--pgdata={folder / 'data'}", f"--username={USER}", "--no-sync"),
            *(f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
        )

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
            user=self._user,
        )

    def start(self) -> None:
        options = f"-F -p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = f"--log={self._folder / 'log'}"
        self._call("pg_ctl", f"--pgdata={self._folder / 'data'}", "-w", log, "-o", options, "start")

    def stop(self) -> None:
        """As a power cut: connections are lost, and what is not committed."""
        subprocess.run(self._stop, check=True, stdout=subprocess.DEVNULL, user=self._user)

    @contextmanager
    def stopped_with_us(self) -> Iterator[None]:
        """Stop it and remove its data when the block or this process ends, however that ends."""
        script = 'read _; "$@" > /dev/null; rm -r "$0"'  # ours ends the line by ending
        with subprocess.Popen(
            ["sh", "-c", script, str(self._folder), *self._stop],
            stdin=subprocess.PIPE,
            cwd=self._folder.parent,
            user=self._user,
            start_new_session=True,  # Ctrl-C is not for it
        ):
            yield

    def url(self, user: str = USER, password: str = PASSWORD, name: str = "postgres") -> str:
        """Of a database, as a user of the package gives it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{name}"

    def execute(self, *statements: str) -> None:
        """Run SQL, each statement by itself."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def empty(self) -> str:
        """The URL of a new user, who sees tables of its own alone: faster than a new database."""
        user = f"user{next(self._numbers)}"
        self.execute(
            f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE SCHEMA AUTHORIZATION {user}",
        )
        return self.url(user)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs, until the block ends."""
    programs = _programs()
    assert programs is not None
    # Not in pytest's folders, which only their user may enter.
    server = Server(programs, Path(tempfile.mkdtemp(prefix="postgres")))
    with server.stopped_with_us():
        server.start()
        yield server

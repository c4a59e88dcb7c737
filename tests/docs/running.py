"""Runs the blocks of a page: those of Python as one script, those of a shell as its reader does."""

import doctest
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from pages import Block
from printed import differences, lines_of


class PageRun:
    """The blocks of one page, run one after the other in the folder that one is in.

    Args:
        page: Its name, for tracebacks.
        shorter: Two texts: where a block has the first, the second takes its place, and of what it
            prints only the number of lines is compared.
    """

    def __init__(self, page: str, shorter: tuple[str, str] = ("", "")) -> None:
        self._page, self._shorter = page, shorter
        self._names: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Run a block, and compare what it prints with what the page says.

        Raises:
            AssertionError: If it prints something else, or a command fails.
        """
        where = f"{block.page}:{block.line}"
        if block.is_session:
            self._session(block, where)
            return
        is_shorter = bool(self._shorter[0]) and self._shorter[0] in block.code
        code = block.code.replace(*self._shorter) if is_shorter else block.code
        printed = _in_shell(code, where) if block.language == "bash" else self._python(code, block)
        if block.output is None:
            return
        if is_shorter:
            assert len(lines_of(printed)) == len(lines_of(block.output)), where
            return
        found = differences(block.output, printed)
        assert found == [], "\n".join([where, *found])

    def _session(self, block: Block, where: str) -> None:
        name, names = self._page, self._names
        session = doctest.DocTestParser().get_doctest(block.code, names, name, name, block.line)
        said = StringIO()
        runner = doctest.DocTestRunner()
        assert runner.run(session, out=said.write, clear_globs=False).failed == 0, (
            f"{where}\n{said.getvalue()}"
        )
        names.update(session.globs)

    def _python(self, code: str, block: Block) -> str:
        printed = StringIO()
        with redirect_stdout(printed):
            # Lines are counted as in the page, for tracebacks.
            exec(compile("\n" * (block.line - 1) + code, self._page, "exec"), self._names)
        return printed.getvalue()


def _in_shell(code: str, where: str) -> str:
    """What the commands print, with the programs of this environment first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{where}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout

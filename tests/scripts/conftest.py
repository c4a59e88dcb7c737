"""Running scripts as their users do: in an empty folder, on the built-in data."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a script in an empty folder; returns its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(script: Path, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script with wrong input; returns its one line of error."""

    def refused(script: Path, *arguments: str) -> str:
        assert run(script, *arguments) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert not list(Path().glob("lightning_logs/**/*.ckpt")), "something was trained"
        last = printed.err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        return last

    return refused

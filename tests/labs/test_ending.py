"""How scripts end: when they are told to, on wrong input and on faults."""

import ast
import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_adls.errors import InputValueError, MissingFileError, MissingPackageError
from lightning_adls.labs.ending import refusing, with_room

HELD_UP = """
import time
from lightning_adls.labs import ending
ending._GRACE_SECONDS = 1
class Holding:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(30)  # what is raised in a finaliser is lost
with ending.ending():
    Holding()
    time.sleep(30)
"""
PROMPT = """
import time
from lightning_adls.labs import ending
with ending.ending():
    print("ready", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("code", [PROMPT, HELD_UP], ids=["prompt", "held up"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_script_ends_with_the_signals_status_even_where_the_exception_is_lost(
    code: str, how: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs, and so perhaps these tests, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(how)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 128 + how
    if how == signal.SIGINT:
        assert "the same command continues" in printed


def instantiated(error: Exception) -> None:
    """Make an object of a class below ``list``, where jsonargparse makes a ValueError of errors."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--made", type=list[Thing])
    Thing.error = error
    parser.instantiate(parser.parse_args(['--made=[{"x": 1}]']))


class Thing:
    """Made by jsonargparse."""

    error: Exception

    def __init__(self, x: int) -> None:
        raise self.error


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("how", [raised, instantiated])
@pytest.mark.parametrize(
    "kind", [ValueError, TypeError, KeyError, OSError, ImportError, AttributeError, RuntimeError]
)
def test_a_fault_of_ours_comes_with_its_traceback(
    how: Callable[[Exception], None], kind: type[Exception]
) -> None:
    with pytest.raises(Exception, match="a fault"), refusing(ArgumentError):
        how(kind("a fault"))


@pytest.mark.parametrize("how", [raised, instantiated])
@pytest.mark.parametrize("kind", [InputValueError, MissingFileError, MissingPackageError])
def test_what_a_check_refuses_is_one_line_and_status_2(
    how: Callable[[Exception], None], kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, refusing():
        how(kind("Thing: x=1 is\n  wrong."))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: Thing: x=1 is wrong.\n"


def test_parts_of_the_package_that_no_user_has_met_are_not_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for message in ("open_study: the study is gone.", "Integer: width=99 is above 32."):
        with pytest.raises(SystemExit), refusing():
            raise InputValueError(message)
    expected = "error: the study is gone.\nerror: Integer: width=99 is above 32.\n"
    assert capsys.readouterr().err == expected


def test_what_a_caller_names_is_refused_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), refusing(OSError):
        raise PermissionError(13, "Permission denied")
    assert "Permission denied" in capsys.readouterr().err
    with pytest.raises(KeyError), refusing(OSError):
        raise KeyError("a fault")


def test_an_error_that_followed_a_refusal_is_no_refusal() -> None:
    fault = RuntimeError("a fault")
    fault.__cause__ = InputValueError("wrong")
    with pytest.raises(RuntimeError), refusing():
        raise fault


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_the_traceback_of_a_refusal_is_shown_on_request(
    value: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTNING_ADLS_TRACEBACK", value)
    with pytest.raises(SystemExit) as ended, refusing():
        raised(InputValueError("wrong"))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert ("in raised" in "\n".join(lines)) == shown
    assert lines[-1] == "error: wrong"


def test_a_full_disk_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, with_room():
        raise OSError(errno.ENOSPC, "No space left on device", "run.json")
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: No space left on device for run.json; make room, and the same command continues."
    )
    with pytest.raises(PermissionError), with_room():
        raise PermissionError(errno.EACCES, "Permission denied")


ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("lightning_adls/**/*.py"), *ROOT.glob("scripts/*.py")])


def test_every_check_of_ours_is_an_input_error() -> None:
    """Another ValueError, OSError or ImportError would come with its traceback."""
    plain = {"ValueError", "OSError", "FileNotFoundError", "ImportError", "ModuleNotFoundError"}
    made = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in plain
    ]
    assert made == []

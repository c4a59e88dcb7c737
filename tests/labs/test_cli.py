"""How scripts end when they are told to."""

import signal
import subprocess
import sys

import pytest

HELD_UP = """
import time
from lightning_adls.labs import cli
cli._GRACE_SECONDS = 1
class Holding:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(30)  # what is raised in a finaliser is lost
with cli.ending():
    Holding()
    time.sleep(30)
"""
PROMPT = """
import time
from lightning_adls.labs import cli
with cli.ending():
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

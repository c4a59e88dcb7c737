"""What scripts do where nobody reads what they print, as behind ``| head``."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lightning_adls.labs.run import Run

ROOT = Path(__file__).parents[2]
LABS = sorted((ROOT / "scripts").glob("lab*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
# What --status of any lab reads of it.
CONFIG = "{studies: {Log: []}, samplers: {grid: {}}, seeds: [0], only: null, trials: 2}"
PIPING = "import sys\nfrom lightning_adls.labs.ending import piping\nwith piping():\n    "
PRINTING = {
    "at the end": "print('x')",
    "at once": "print('x', flush=True)",
    "more than a pipe holds": "[print('x' * 99) for _ in range(9999)]",
    "more than is kept": "print('x' * 20_000)",
    "and ends": "print('x'); sys.exit(0)",
    "and is refused": "print('x'); sys.exit(2)",
    "by rich": "from rich.console import Console; Console().print('x')",
}


def unread(arguments: Sequence[str], errors: bool = False) -> tuple[int, str]:
    """Status and standard error of a Python whose output, and errors perhaps, nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, *arguments],
            stdout=writing,
            stderr=writing if errors else subprocess.PIPE,
            text=True,
            # argparse says nothing of what it could not write at once.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        )
    finally:
        os.close(writing)
    return result.returncode, result.stderr or ""


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize("printing", PRINTING.values(), ids=PRINTING.keys())
def test_output_that_nobody_reads_ends_a_program_silently(printing: str, errors: bool) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"{PIPING}raise BrokenPipeError('db')"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 1
    assert result.stderr.endswith("BrokenPipeError: db\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_that_nobody_reads_ends_silently(script: Path) -> None:
    assert unread([str(script), "--help"]) == (141, "")


@pytest.mark.parametrize("script", LABS, ids=lambda path: path.stem)
def test_a_status_that_nobody_reads_ends_silently(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Run(script.stem.partition("_")[0], "x", CONFIG) as run:
        run.begin()
    assert unread([str(script), "--status", "--run=x"]) == (141, "")


@pytest.mark.long
def test_arguments_that_nobody_reads_end_silently() -> None:
    assert unread([str(LABS[-1]), "--print_config"]) == (141, "")

"""The benchmark of a search's driver as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "asking.py"


@pytest.mark.long
def test_a_window_of_trials_is_timed_while_all_workers_are_busy(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--samplers", "random", "--workers", "1", "8", "--trials", "60") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [cell[:3] for cell in cells] == [
        ["random", workers, trials] for workers in ("1", "8") for trials in ("51-100", "all")
    ]
    for window, whole in zip(cells[::2], cells[1::2], strict=True):
        assert float(window[5]) > 0
        assert whole[6].partition(" ")[0] != "0.0", "the journal has the trials"

"""The benchmark of number formats as its users run it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "formats.py"


def test_rounding_is_a_multiple_of_copying_by_the_clock_of_bench(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = count()
    clock = "lightning_adls.bench.instruments.timing.perf_counter"
    monkeypatch.setattr(clock, lambda: next(seconds))
    arguments = ("--formats", "Integer(width=4)", "Binary", "--repeats", "3", "--no-compile")
    assert run(BENCHMARK, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    one = ["1000.00 (1000.00 - 1000.00)", "1.00 (1.00 - 1.00)"]
    assert [cell[2:] for cell in cells] == [one] * 4, "every call takes a second on this clock"
    assert [cell[0].partition("(")[0] for cell in cells] == ["Integer"] * 2 + ["Binary"] * 2

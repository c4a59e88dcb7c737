"""The benchmark of plans as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan.py"


def test_a_plan_of_many_layers_and_formats_is_timed(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--budgets", "4", "5", "--repeats", "1") == 0
    printed = capsys.readouterr().out
    assert "74 layers, 50 formats" in printed
    cells = [line.split("│")[1:-1] for line in printed.splitlines() if "│" in line]
    assert [float(budget) for budget, _ in cells] == [4, 5]
    assert all(float(seconds) > 0 for _, seconds in cells)

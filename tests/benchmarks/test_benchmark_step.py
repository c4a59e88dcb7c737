"""The benchmark of training steps as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.mark.long
@pytest.mark.usefixtures("ticking")
def test_a_step_is_a_multiple_of_that_in_float32_by_the_clock_of_bench(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--formats", "Integer(width=4)", "LearnedInteger", "--rounds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [cell[0].partition("(")[0] for cell in cells] == ["float32", "Integer", "LearnedInteger"]
    times = [cell[1] for cell in cells]
    one = "1.00 (1.00 - 1.00)"
    assert times == ["1000.00 (1000.00 - 1000.00) ms", one, one], "a step takes a second on it"

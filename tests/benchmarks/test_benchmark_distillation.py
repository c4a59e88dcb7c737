"""The benchmark of distillation as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "distillation.py"


@pytest.mark.long
@pytest.mark.usefixtures("ticking")
def test_each_fit_is_a_multiple_of_the_plain_one_by_the_clock_of_bench(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--steps", "1", "--rounds", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    names = ["labels alone", "logits", "logits, teacher in bfloat16", "logits and hidden states"]
    assert [cell[0] for cell in cells] == names
    assert {cell[1] for cell in cells} == {"1.00 (1.00 - 1.00)"}, "a fit takes a second on it"

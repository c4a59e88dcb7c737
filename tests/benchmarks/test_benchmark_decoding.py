"""The benchmark of decoding as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "decoding.py"


@pytest.mark.usefixtures("ticking")
def test_decoding_is_a_multiple_of_a_copy_by_the_clock_of_bench(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, "--formats", "Integer(width=4)", "--repeats", "2") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "Integer(" in line)
    copy, by_torch, by_kernel = (cell.strip() for cell in line.split("│")[2:5])
    assert (copy, by_torch) == ("1000.000", "1.0 (1.0 - 1.0)"), "each call takes a second on it"
    assert by_kernel in (by_torch, "-"), "a kernel needs AVX2 and a compiler"

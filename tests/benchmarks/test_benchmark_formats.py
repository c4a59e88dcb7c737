"""The benchmark of number formats as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from lightning_adls.formats import Integer

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "formats.py"


@pytest.mark.usefixtures("ticking")
def test_rounding_is_a_multiple_of_copying_by_the_clock_of_bench(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--formats", "Integer(width=4)", "Binary", "--repeats", "3", "--no-compile")
    assert run(BENCHMARK, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    one = ["1000.00 (1000.00 - 1000.00)", *["1.00 (1.00 - 1.00)"] * 2]
    assert [cell[2:] for cell in cells] == [one] * 4, "every call takes a second on this clock"
    assert [cell[0].partition("(")[0] for cell in cells] == ["Integer"] * 2 + ["Binary"] * 2


def test_a_median_above_the_aim_is_marked(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Time passes in calls of `round` alone, and one second in every call.
    clock = Seconds()
    monkeypatch.setattr("lightning_adls.bench.instruments.timing.perf_counter", clock)
    slow, fast = "Integer(width=4)", "Integer(width=3)"
    round_ = Integer.round

    def timed(fmt: Integer, x: Tensor) -> Tensor:
        clock.now += 7.1 if fmt.width == 4 else 7.0
        return round_(fmt, x)

    monkeypatch.setattr(Integer, "round", timed)
    assert run(BENCHMARK, "--formats", slow, fast, "--repeats", "2", "--no-compile") == 0
    lines = [line.split("│")[4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [line.strip() for line in lines] == ["8.10 (8.10 - 8.10) !"] * 2 + [
        "8.00 (8.00 - 8.00)"
    ] * 2


class Seconds:
    """A clock that runs a second between two looks at it."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now

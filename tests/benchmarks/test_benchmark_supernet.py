"""The benchmark of one training for all recipes as its users run it."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "supernet.py"


def test_recipes_of_one_training_are_compared_with_those_of_their_own(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--train-rows", "64", "--val-rows", "64", "--max-length", "16"]
    assert run(BENCHMARK, *small, "--recipes", "1", "--widths", "2", "8", "--distill") == 0
    printed = capsys.readouterr().out
    cells = [line.split("│")[1:-1] for line in printed.splitlines() if "│" in line]
    assert [float(row[1]) for row in cells[:2]] == pytest.approx([2, 8], abs=0.05)
    for row in cells:
        for accuracy in (row[2], row[4]):
            value, error = map(float, accuracy.split("±"))
            assert 0 <= value <= 1
            assert error == pytest.approx((value * (1 - value) / 64) ** 0.5, abs=1e-4)
        assert float(row[3]) > 0
    assert len(cells) == 3
    assert "times as fast" in printed
    assert "Rank correlation" in printed

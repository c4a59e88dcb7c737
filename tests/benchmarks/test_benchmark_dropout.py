"""The comparison of dropouts as its users run it."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "dropout.py"


@pytest.mark.long
def test_trainings_are_compared_seed_by_seed_and_none_is_repeated(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = tmp_path / "table.csv"
    sizes = ("--hidden", "8", "--layers", "1", "--limit-train", "64", "--limit-test", "64")
    budget = ("--max-length", "16", "--epochs", "1")
    options = ("accuracy", *sizes, *budget, "--csv", str(table))
    assert run(BENCHMARK, *options, "--seeds", "0") == 0
    first = table.read_text().splitlines()
    assert len(first) == 3, "a heading and a row for each setting"
    assert run(BENCHMARK, *options, "--seeds", "0", "1", "--test") == 0
    lines = table.read_text().splitlines()
    assert lines[:3] == first
    assert len(lines) == 5
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["seed"]) for row in rows] == [
        *(("0.1/0.1", "0"), ("0.1/0", "0"), ("0.1/0.1", "1"), ("0.1/0", "1")),
    ]
    assert len((tmp_path / "table-test.csv").read_text().splitlines()) == 5
    printed = capsys.readouterr().out
    assert "validation accuracy: mean and standard error over seeds" in printed
    assert "test accuracy: mean and standard error over seeds" in printed

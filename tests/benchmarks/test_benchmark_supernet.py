"""The benchmark of one training for all recipes as its users run it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_adls.labs.task import Task

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "supernet.py"
SMALL = ["--train-rows", "64", "--val-rows", "64", "--max-length", "16", "--widths", "2", "8"]


def rows(printed: str) -> list[list[str]]:
    """The cells of the table."""
    table = printed.partition("Rank correlation")[0]
    lines = [line for line in table.splitlines() if "│" in line]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts trainings; the process is killed when there would be more than ``most``."""
    count, train = {"now": 0, "most": 99}, Task.train

    def counted(*arguments: Any, **named: Any) -> Any:
        if count["now"] == count["most"]:
            raise SystemExit(9)
        count["now"] += 1
        return train(*arguments, **named)

    monkeypatch.setattr(Task, "train", counted)
    return count


@pytest.mark.long
def test_recipes_of_one_training_are_compared_with_those_of_their_own(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], trained: dict[str, int]
) -> None:
    assert run(BENCHMARK, *SMALL, "--recipes", "1", "--distill") == 0
    printed = capsys.readouterr().out
    cells = rows(printed)
    names = ["LearnedInteger(width=2)", "LearnedInteger(width=8)", "random 1"]
    assert [row[0] for row in cells] == names
    assert [float(row[1]) for row in cells[:2]] == pytest.approx([2, 8], abs=0.05)
    for row in cells:
        shared, alone = (tuple(map(float, cell.split("±"))) for cell in row[2:4])
        for value, error in (shared, alone):
            assert 0 <= value <= 1
            assert error == pytest.approx(math.sqrt(value * (1 - value) / 64), abs=1e-4)
        assert float(row[4].split("±")[0]) == pytest.approx(shared[0] - alone[0], abs=2e-4)
    assert trained["now"] == 5
    for said in ("fine-tuning", "random 1 alone: ", "(3 of 3)", "Rank correlation", "Races of 3"):
        assert said in printed
    assert "A search of 100 recipes takes" in printed

    # Killed while the second recipe is trained, and called again for one recipe more.
    trained |= {"now": 0, "most": 3}
    kept = [*SMALL, "--distill", "--folder", "kept", "--recipes"]
    assert run(BENCHMARK, *kept, "1") == 9
    trained |= {"now": 0, "most": 99}
    capsys.readouterr()
    assert run(BENCHMARK, *kept, "2") == 0
    assert trained["now"] == 3
    more = rows(capsys.readouterr().out)
    assert more[:3] == cells
    assert more[3][0] == "random 2"
    assert not list(Path("kept").rglob("*.part"))


def test_wrong_arguments_are_refused_before_any_work(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], trained: dict[str, int]
) -> None:
    for arguments, message in (
        (["--epochs", "0"], "epochs=0.0 is neither"),
        (["--format", "Integr"], "Integr"),
        (["--widths", "4", "--distill"], "distill=True has the largest recipe teach"),
        (["--recipes", "-1"], "'-1' is no whole number"),
    ):
        assert run(BENCHMARK, *SMALL, *arguments) == 2
        assert message in capsys.readouterr().err
    assert not trained["now"]

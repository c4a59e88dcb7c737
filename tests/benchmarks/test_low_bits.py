"""The table of few bits as its users make it, on a few reviews."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls import Quantize, bert
from lightning_adls.labs.task import Task
from lightning_adls.significance import paired
from lightning_adls.transforms import costs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "low_bits.py"
FEW = ("--limit", "32", "--batch", "16", "--start-epochs", "1", "--epochs", "1", "--seeds", "0")
LINES = Path("lightning_logs/low_bits/jobs.jsonl")


@pytest.fixture(autouse=True)
def _as_scripts_are(monkeypatch: pytest.MonkeyPatch, cache_dir: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # where a script finds its neighbours
    monkeypatch.setenv("XDG_CACHE_HOME", cache_dir)


class Trainings:
    """Counts the trainings that are begun; those that ``faults`` has by number raise.

    ``weights`` has the kind of those that each task starts from.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.weights: list[str | None] = []
        self.faults: dict[int, BaseException] = {}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    watched, train, init = Trainings(), Task.train, Task.__init__

    def noted(*arguments: Any, weights: Path | None = None, **named: Any) -> None:
        watched.weights.append(None if weights is None else weights.parent.name)
        init(*arguments, weights=weights, **named)

    monkeypatch.setattr(Task, "__init__", noted)

    def counted(*arguments: Any, **named: Any) -> dict[str, float]:
        watched.begun += 1
        if watched.begun in watched.faults:
            raise watched.faults[watched.begun]
        return train(*arguments, **named)

    monkeypatch.setattr(Task, "train", counted)
    return watched


def jobs() -> list[tuple[str, bool]]:
    told = [json.loads(line)["told"]["job"] for line in LINES.read_text().splitlines()]
    return [(job["row"], job["distilled"]) for job in told]


@pytest.mark.long
def test_an_interrupted_table_is_continued_and_nothing_is_repeated(
    run: Callable[..., int],
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("low_bits_one_shot.TRIALS", 10)
    names = ["float32", "planned-4", "one-shot-4"]
    trainings.faults = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(SCRIPT, *FEW, "--rows", *names)
    before = LINES.read_text()
    assert [row for row, _ in jobs()] == ["start", "scores", "shared", "picked", "float32"]
    with LINES.open("a") as file:
        file.write('{"told": {"job"')  # as a process that is killed leaves it
    assert run(SCRIPT, *FEW, "--rows", *names) == 0
    assert LINES.read_text().startswith(before)
    rows = [(name, distilled) for name in names for distilled in (False, True)]
    assert jobs()[4:] == rows
    assert trainings.begun == 9, "one was interrupted, and begun again"
    # Of the jobs in their order, the interrupted one twice.
    needed = [None, "start", "start", "shared", "start"]
    assert trainings.weights == [*needed, *["start"] * 4, *["shared"] * 2]
    finished = LINES.read_text()
    capsys.readouterr()
    assert run(SCRIPT, *FEW, "--rows", *names, "--minutes", "0") == 0
    assert LINES.read_text() == finished
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    table = [row for row in cells if row and row[0] in names]
    assert [(row[0], row[1] == "yes") for row in table] == rows
    bits = [float(row[2]) for row in table]
    assert bits[:2] == [32, 32]
    assert all(3 < each <= 4 for each in bits[2:])
    assert table[0][-1] == "+0.00 (+0.00 to +0.00)"
    assert LINES.with_name("reviews.png").exists()


def test_a_job_that_fails_stops_no_other_and_is_tried_again(
    run: Callable[..., int], trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rows", "float32", "MXInt4", "--teachers", "without")
    trainings.faults = {2: ValueError("planted")}
    assert run(SCRIPT, *FEW, *options) == 1
    assert "1 of 3 jobs failed" in capsys.readouterr().err
    found = [json.loads(line)["found"] for line in LINES.read_text().splitlines()]
    assert ["error" in each for each in found] == [False, True, False]
    assert "ValueError: planted" in found[1]["error"]
    assert run(SCRIPT, *FEW, *options) == 0
    assert jobs()[3:] == [("float32", False)]


def test_other_settings_are_other_jobs(run: Callable[..., int], trainings: Trainings) -> None:
    options = ("--rows", "float32", "--teachers", "without")
    assert run(SCRIPT, *FEW, *options) == 0
    assert run(SCRIPT, *FEW, *options, "--epochs", "2") == 0
    assert jobs() == [("start", False), ("float32", False), ("float32", False)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "nowhere"), "data='nowhere' is no file"),
        (("--data", "imdb"), "data='imdb' needs a model"),
        (("--model", "some"), "model='some'"),
        (("--data", "reviews", "reviews"), "two files named 'reviews'"),
        (("--epochs", "1", "2"), "epochs=[1.0, 2.0]"),
        (("--epochs", "0"), "epochs=0.0"),
        (("--learning-rate", "0"), "learning-rate=0.0"),
    ],
)
def test_wrong_input_is_refused_before_any_work(
    refused: Callable[..., str], options: tuple[str, ...], said: str
) -> None:
    assert said in refused(SCRIPT, *options)
    assert not LINES.exists()


@pytest.fixture
def table() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "low_bits_table.py"))


ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_the_difference_of_one_seed_is_the_paired_one(table: dict[str, Any]) -> None:
    @given(ANSWERS)
    def check(answers: list[tuple[bool, bool]]) -> None:
        first, second = (np.array([side]) for side in zip(*answers, strict=True))
        expected = paired(first[0].tolist(), second[0].tolist())
        value, error = table["difference"](first, second)
        assert value == pytest.approx(expected.value)
        assert error == pytest.approx(expected.standard_error)
        # Seeds that answer alike tell nothing new of the rows.
        again = table["difference"](first.repeat(3, 0), second.repeat(3, 0))
        assert again == pytest.approx((value, error))

    check()


def test_the_error_of_a_difference_covers_other_rows_and_other_seeds(table: dict[str, Any]) -> None:
    # Rows and seeds that are better or worse than others, by a known share on average.
    draw = np.random.default_rng(0)
    seeds, rows, gain = 8, 400, 0.03
    inside = 0
    for _ in range(300):
        easy, luck = draw.random((1, rows)), draw.normal(0, 0.02, (seeds, 1))
        second = draw.random((seeds, rows)) < 0.5 + 0.4 * easy
        first = draw.random((seeds, rows)) < 0.5 + 0.4 * easy + gain + luck
        value, error = table["difference"](first, second)
        inside += abs(value - gain) < 1.96 * error
    assert inside > 0.9 * 300


ROWS: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "low_bits_rows.py"))["ROWS"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.formats is not None])
def test_every_row_rounds_weights_and_inputs_of_all_linear_layers(name: str) -> None:
    network = bert(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=1)
    Quantize({"*": ROWS[name].formats}, strict=True)(network)
    tokens = torch.arange(16).reshape(2, 8)
    logits = network(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    assert logits.isfinite().all()
    assert costs(network)["bits_per_weight"] < 9
    assert set(ROWS[name].formats) == {"input", "weight"}

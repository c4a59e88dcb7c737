"""A file of all trials costs a share of the time, however many there are."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import Plain, study_of

from lightning_adls.search import ResultsFile, Search, listeners
from lightning_adls.search.listeners import RowsFile
from lightning_adls.search.samplers import SAMPLERS

SECONDS_OF_A_ROW = 1e-5


class Counting(RowsFile):
    """Rows that take their time; an hour has any number of seconds."""

    now = 0.0
    written = 0
    times = 0

    def rows(self) -> list[dict[str, Any]]:
        count = len(self.searches["a"].counted)
        self.now += SECONDS_OF_A_ROW * count
        self.written += count
        self.times += 1
        return [{"trial": place} for place in range(count)]


class Counted:
    """What the file needs of a search."""

    def __init__(self) -> None:
        self.counted: list[None] = []


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    searches: Any = {"a": Counted()}
    made = Counting(tmp_path / "a.csv", searches)
    monkeypatch.setattr(listeners, "monotonic", lambda: made.now)
    return made


def rows_of(path: Path) -> int:
    with path.open(newline="") as file:
        return len(list(csv.DictReader(file)))


def end_trials(file: Counting, trials: int, seconds: float) -> None:
    search: Any = file.searches["a"]
    for _ in range(trials):
        file.now += seconds
        search.counted.append(None)
        file.trial_ended(search, None)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize("trials", [1_000, 10_000])
def test_rows_that_are_written_grow_with_the_trials_and_not_with_their_square(
    file: Counting, trials: int
) -> None:
    end_trials(file, trials, seconds=0.01)
    writing = SECONDS_OF_A_ROW * file.written
    # The last time may have been just now.
    assert writing <= (file.now + SECONDS_OF_A_ROW * trials * 19) / 20
    assert file.written < 60 * trials
    file.ended(file.searches["a"])
    assert rows_of(file.path) == trials


def test_each_trial_that_takes_a_while_is_in_the_file_when_it_ends(file: Counting) -> None:
    for place in range(1, 100):
        end_trials(file, 1, seconds=1.0)
        assert rows_of(file.path) == place
    assert file.times == 99


@pytest.mark.parametrize("how", ["moved", "ended", "stopped", "begun"])
def test_what_was_put_off_is_written_soon(file: Counting, how: str) -> None:
    search: Any = file.searches["a"]
    end_trials(file, 50, seconds=0.0)
    assert rows_of(file.path) < 50
    assert file.times < 50
    if how in ("moved", "begun"):
        file.now += 0.1
    hear: dict[str, Callable[[], None]] = {
        "moved": lambda: file.trial_moved(search, None),  # type: ignore[arg-type]
        "ended": lambda: file.ended(search),
        "stopped": lambda: file.stopped(search),
        "begun": lambda: file.begun(search),
    }
    hear[how]()
    assert rows_of(file.path) == 50
    times = file.times
    if how != "begun":
        hear[how]()
        assert file.times == times, "there was nothing to write"


def test_a_search_that_has_no_trial_makes_no_file(file: Counting) -> None:
    file.begun(file.searches["a"])
    file.stopped(file.searches["a"])
    assert not file.path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_search_that_stops_leaves_all_rows_and_goes_on(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_REST", 1e9)  # the file is written once by itself
    study = study_of(tmp_path / "journal")
    searches: dict[str, Search[Any]] = {}
    file = ResultsFile(tmp_path / "a.csv", searches)
    stops = True

    def value(number: int) -> float:
        if stops and len(searches["a"].counted) == 4:
            raise error
        return float(number)

    objective: Any = Plain(tmp_path, value)
    searches["a"] = Search(study, objective, SAMPLERS["grid"], 8, 0, [file])
    with pytest.raises(error):
        searches["a"].run()
    assert rows_of(file.path) == 4
    file.path.unlink()  # as if the process had been killed before
    stops = False
    again = ResultsFile(file.path, searches)
    searches["a"] = Search(study, objective, SAMPLERS["grid"], 8, 0, [again])
    searches["a"].run()
    assert rows_of(file.path) == 8


def test_what_goes_wrong_while_a_search_stops_does_not_hide_why(tmp_path: Path) -> None:
    class Failing(ResultsFile):
        def write(self) -> None:
            raise OSError("no room")

    failing = Failing(tmp_path / "a.csv", {})

    def value(number: int) -> float:
        failing._changed = True
        raise ZeroDivisionError

    objective: Any = Plain(tmp_path, value)
    with pytest.raises(ZeroDivisionError):
        Search(study_of(tmp_path / "journal"), objective, SAMPLERS["grid"], 8, 0, [failing]).run()

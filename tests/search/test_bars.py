"""What people see of a search: at most what is true, in 80 columns."""

import re
from collections.abc import Callable, Sequence
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lightning_adls.remaining import Remaining
from lightning_adls.search import Bars, progress
from lightning_adls.search.driver import Running

# Cursors and colours.
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress, "Remaining", lambda: Remaining(clock=lambda: now[0]))
    return now


def search_of(name: str, total: int, workers: int = 1) -> Any:
    """What is shown of a search."""
    engine = SimpleNamespace(workers=workers)
    return SimpleNamespace(
        name=name,
        total=total,
        trials=total,
        engine=engine,
        complete=False,
        counted=[],
        curve=[],
    )


def end(bars: Bars, search: Any, place: int, value: float | None = 0.5, **attrs: Any) -> None:
    trial: Any = SimpleNamespace(
        state=SimpleNamespace(name="FAIL" if value is None else "COMPLETE"),
        user_attrs={"index": place, **attrs},
    )
    search.counted.append(trial)
    if value is not None:
        search.curve.append((len(search.counted), value))
    bars.trial_ended(search, trial)


def move(bars: Bars, search: Any, place: int, worker: int, share: float = 0.0) -> Running:
    trial: Any = None
    running = Running(place, trial, {}, worker, share)
    bars.trial_moved(search, running)
    return running


def printed(bars: Bars, width: int = 80) -> list[str]:
    """What is on the screen now."""
    console = Console(file=StringIO(), width=width)
    console.print(bars._drawn())
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def test_each_of_several_workers_has_a_line(clock: list[float]) -> None:
    bars, search = Bars(Console(file=StringIO(), width=80), 2), search_of("Integer", 10, 3)
    with bars:
        bars.begun(search)
        assert [line.strip() for line in printed(bars)[1:]] == [
            "worker 1: starts",
            "worker 2: starts",
            "worker 3: starts",
        ]
        move(bars, search, 0, worker=2, share=1.0)
        running = move(bars, search, 1, worker=1, share=0.45)
        running.reported.update({20: 0.5, 40: 0.625})
        clock[0] = 60.0
        end(bars, search, 0)
        study, *workers, left = printed(bars)
    assert re.fullmatch(r"Integer [━╸╺ ]+ 1/10 best 0\.5000 0:00:00", study)
    assert re.fullmatch(r"  worker 1: trial 2 [━╸╺ ]+ 45% 0\.6250 at 40%", workers[0].rstrip())
    assert workers[1].strip() == "worker 2: waits"
    assert workers[2].strip() == "worker 3: starts"
    # 1.45 trials in a minute: 87 an hour, and 18.55 of 20 are left.
    assert left.strip() == "Trials of all studies: 1 of 20, 87 per hour, about 13 min left"


def test_one_worker_has_no_line_of_its_own(clock: list[float]) -> None:
    bars, search = Bars(Console(file=StringIO(), width=80)), search_of("Integer", 4)
    with bars:
        bars.begun(search)
        move(bars, search, 0, worker=1, share=0.5)
        assert len(printed(bars)) == 1
        clock[0] = 60.0
        end(bars, search, 0)
        assert len(printed(bars)) == 2


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("name", ["x", "lab3/default/a_rather_long_name_of_a_study_that_I_have"])
def test_names_and_numbers_are_whole_in_80_columns(
    name: str, workers: int, clock: list[float]
) -> None:
    bars, search = Bars(Console(file=StringIO(), width=80)), search_of(name, 1024, workers)
    with bars:
        bars.begun(search)
        for place in range(workers):
            move(bars, search, 999 + place, place + 1, 0.995).reported[100] = 0.8125
        clock[0] = 5.0
        end(bars, search, 0)
        lines = printed(bars)
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[-4:] == ["1/1024", "best", "0.5000", "0:00:00"]
    assert lines[0].startswith(name[:8]), "its head"
    assert f"{name[-14:]} " in lines[0], "and its end"
    assert len(lines) == 2 + (workers if workers > 1 else 0)
    assert all("0.8125 at 100%" in line for line in lines[1:-1])


def test_a_terminal_keeps_every_line_once(clock: list[float]) -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    search = search_of("Integer", 2, 2)
    with Bars(console) as bars:
        bars.begun(search)
        move(bars, search, 1, worker=1)
        clock[0] = 1.0
        end(bars, search, 1, None, error="RuntimeError: no [bold] kernel")
        end(bars, search, 0)
        bars.ended(search)
    # The screen after the last time that it was drawn.
    text = CODES.sub("", output.getvalue())
    assert text.count("Integer trial 2: RuntimeError: no [bold] kernel") == 1
    final = text.rpartition("Integer ")[2].splitlines()
    assert len(final) == 2, "and no line of a worker"
    assert "2/2 best 0.5000" in final[0]
    assert final[1].strip() == "Trials of all studies: 2 of 2, 7200 per hour"


def test_without_a_terminal_a_line_for_each_trial_names_its_worker(clock: list[float]) -> None:
    output, search = StringIO(), search_of("Integer", 3, 2)
    with Bars(Console(file=output, width=40)) as bars:
        bars.begun(search)
        move(bars, search, 0, worker=1)
        move(bars, search, 1, worker=2, share=1.0)
        clock[0] = 3600.0
        end(bars, search, 1)
        end(bars, search, 2, same_as=1)
        bars.ended(search)
    assert output.getvalue().splitlines() == [
        "Integer 1/3 trial 2 complete by worker 2, best 0.5000; "
        "1 of 3, 1.0 per hour, about 2 h 0 min left",
        "Integer 2/3 trial 3 complete, best 0.5000; 2 of 3, 2.0 per hour, about 30 min left",
    ]


def test_trials_that_repeat_others_are_no_estimate_by_themselves(clock: list[float]) -> None:
    output, search = StringIO(), search_of("Integer", 9)
    with Bars(Console(file=output, width=80)) as bars:
        bars.begun(search)
        end(bars, search, 0, same_as=7)
        move(bars, search, 1, worker=1)
        end(bars, search, 2, same_as=7)
        clock[0] = 60.0
        end(bars, search, 1)
    ends = [line.partition("; ")[2] for line in output.getvalue().splitlines()]
    assert ends == ["1 of 9", "2 of 9", "3 of 9, 60 per hour, about 6 min left"]


def simulated(seconds: Sequence[float], workers: int) -> list[tuple[float, list[float], int]]:
    """Of trials that workers do one after another: each end, shares of the others, how many."""
    free, spans = [0.0] * workers, []
    for each in seconds:
        start = min(free)
        free[free.index(start)] = start + each
        spans.append((start, start + each))
    ends = sorted(end for _, end in spans)
    return [
        (
            now,
            [(now - a) / (b - a) for a, b in spans if a < now < b],
            sum(b <= now for _, b in spans),
        )
        for now in ends
    ]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_time_that_is_left_is_right_with_any_number_of_workers(
    workers: int, clock: list[float], spoken_seconds: Callable[[str], float]
) -> None:
    seconds = [600.0 + 37 * n % 211 for n in range(40)]  # no two end at the same moment
    moments = simulated(seconds, workers)
    now = [0.0]
    remaining = Remaining(clock=lambda: now[0])
    for now[0], shares, done in moments[:-workers]:
        said = remaining.after_one(done, len(seconds), begun=sum(shares))
        truth = moments[-1][0] - now[0]
        assert spoken_seconds(said) == pytest.approx(truth, rel=0.2, abs=720)


@pytest.fixture
def spoken_seconds() -> Callable[[str], float]:
    units = {"h": 3600, "min": 60, "s": 1}

    def seconds(text: str) -> float:
        left = text.partition("about ")[2]
        return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+) (h|min|s)\b", left))

    return seconds

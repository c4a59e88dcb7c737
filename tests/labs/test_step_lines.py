"""What people see of steps that workers do."""

import re
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from pickle import dumps, loads
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lightning_adls.data import TextData
from lightning_adls.engines import Call, Driver, Engine, Serial
from lightning_adls.labs import model_run, training_bar
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.run import Run, _do
from lightning_adls.labs.step_lines import StepLines
from lightning_adls.labs.training_bar import TellsProgress, TrainingBar
from lightning_adls.report import Row
from lightning_adls.search import Budget


def drawn(lines: StepLines, width: int = 80) -> list[str]:
    """What is on the screen now."""
    console = Console(file=StringIO(), width=width)
    console.print(lines._drawn())
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture
def lines() -> StepLines:
    return StepLines(Console(file=StringIO(), width=80), 3)


def test_each_worker_has_a_line_with_its_step(lines: StepLines) -> None:
    with lines:
        assert drawn(lines) == [f"  worker {n}: starts" for n in (1, 2, 3)]
        lines.began("ptq/half/8", 2)
        lines.began("qat/half/8", 1)
        lines.moved("qat/half/8", 0.45)
        first, second, third = drawn(lines)
        assert re.fullmatch(r"  worker 1: qat/half/8 [━╸╺ ]+ 45%", first)
        assert (second, third) == ("  worker 2: ptq/half/8", "  worker 3: starts")
        lines.ended("ptq/half/8")
        lines.moved("ptq/half/8", 1.0)  # said before, and heard afterwards
        assert drawn(lines)[1] == "  worker 2: waits"


def test_a_step_whose_worker_died_is_that_of_the_next(lines: StepLines) -> None:
    with lines:
        lines.began("qat/half/8", 1)
        lines.moved("qat/half/8", 0.9)
        lines.began("qat/half/8", 3)
        assert drawn(lines) == ["  worker 1: waits", "  worker 2: starts", "  worker 3: qat/half/8"]


def test_long_names_leave_each_worker_its_line(lines: StepLines) -> None:
    with lines:
        name = "pruned/l1-norm/" + "one_shot/" * 9 + "0.5/qat/mse-8/4"
        lines.began(name, 1)
        lines.moved(name, 1.0)
        found = drawn(lines)
    assert len(found) == 3
    assert found[0].startswith("  worker 1: pruned/l1-norm…")
    assert "one_shot/0.5/qat/mse-8/4 " in found[0]
    assert found[0].endswith("100%")
    assert max(map(len, found)) <= 80


class Telling(Engine):
    """Two workers: both begin, say something, and end."""

    def __init__(self, seen: Callable[[], None]) -> None:
        super().__init__(2)
        self.seen = seen

    def run(self, driver: Driver) -> None:
        calls: list[Call] = []
        while (call := driver.next()) is not None:
            calls.append(call)
            driver.began(call, len(calls))
        for call in calls:
            channel: Any = SimpleNamespace(tell=partial(driver.heard, call))
            result = call.function(call.shared.value, call.argument, channel)
            self.seen()
            driver.ended(call, result)
        self.seen()

    def close(self) -> None:
        pass


def half_done(run: Run) -> Row:
    """A step that says how far it is."""
    assert run.channel is not None
    run.channel.tell(0.5)
    return {}


def test_a_run_shows_its_workers_while_they_do_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screens: list[list[str]] = []
    made: list[StepLines] = []
    begin = StepLines.__init__

    def noted(self: StepLines, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(StepLines, "__init__", noted)
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    with Run("lab", "x", "seed: 0\n") as run:
        engine = Telling(lambda: screens.append(drawn(made[0])))
        run.steps({"a": half_done, "b": half_done}, engine, console=console)
        assert run.channel is None
        assert [re.sub(r"[━╸╺ ]+", " ", line) for line in screens[0]] == [
            " worker 1: a 50%",
            " worker 2: b",
        ]
        assert screens[-1] == ["  worker 1: waits", "  worker 2: waits"]
        assert "worker 2: waits" in output.getvalue()
        assert output.getvalue().endswith("\x1b[2K"), "the last line is erased"
        # Who does the steps itself shows its trainings.
        run.steps({"c": half_done}, Serial(), console=console)
        run.steps({"d": half_done}, Telling(lambda: None))
        assert len(made) == 1


def test_without_a_terminal_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = StringIO()
    with Run("lab", "x", "seed: 0\n") as run:
        run.steps({"a": half_done}, Telling(lambda: None), console=Console(file=output))
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("copied", "shown"), [(True, TellsProgress), (False, TrainingBar)], ids=["worker", "here"]
)
def test_workers_tell_what_others_draw(
    copied: bool, shown: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def train(*arguments: Any) -> Row:
        given.extend(arguments[4])
        return {}

    monkeypatch.setattr(model_run, "save_weights", lambda *_: None)
    lab: Any = SimpleNamespace(
        answers=lambda *_: None,
        checkpoint=lambda _: None,
        copied=copied,
        channel=SimpleNamespace(),
        curves=tmp_path,
        task=SimpleNamespace(train=train),
        _about=lambda *_: {},
    )
    anything: Any = None
    ModelRun.train(lab, "a", anything, anything)
    assert [type(callback) for callback in given] == [shown]


def test_a_copy_of_a_run_has_the_channel_of_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Run("lab", "x", "seed: 0\n") as run:
        copy = loads(dumps(run))
    told: list[float] = []
    channel: Any = SimpleNamespace(tell=told.append)
    assert _do(copy, half_done, channel)[0] == {}
    assert told == [0.5]
    assert copy.channel is None


def test_a_training_tells_how_far_it_is(
    texts: TextData, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_bar, "_TELL_SECONDS", 0.0)
    told: list[float] = []
    channel: Any = SimpleNamespace(tell=told.append)
    budget = Budget(epochs=1, reports=1, accelerator="cpu")
    budget.trainer(3, callbacks=[TellsProgress(channel)]).fit(build([]), datamodule=texts)
    assert told == [1 / 3, 2 / 3, 1.0]


def test_a_training_does_not_tell_more_often_than_anyone_can_see(
    texts: TextData, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_bar, "monotonic", lambda: 0.0)
    told: list[float] = []
    channel: Any = SimpleNamespace(tell=told.append)
    budget = Budget(epochs=1, reports=1, accelerator="cpu")
    budget.trainer(3, callbacks=[TellsProgress(channel)]).fit(build([]), datamodule=texts)
    assert told == []

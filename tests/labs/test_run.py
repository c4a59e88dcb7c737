"""A run's steps are done once, belong to one process and one set of settings, and keep files."""

import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from lightning_adls.compiling import machines
from lightning_adls.engines import Call, Driver, Engine
from lightning_adls.labs.folders import LOGS
from lightning_adls.labs.run import Run, settings_of
from lightning_adls.report import Row

YAML = "seed: 0\nrun: x\ndata: {limit_val: 3, cache_dir: here}\n"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_step_is_done_once_also_by_a_later_call() -> None:
    calls: list[None] = []

    def work() -> Row:
        calls.append(None)
        return {"accuracy": 0.1 + 0.2, "widths": (4, 8)}

    for _ in range(2):
        with Run("lab", "x", YAML) as run:
            row = run.step("a", work)
            assert run.step("a", work) == row == {"accuracy": 0.1 + 0.2, "widths": [4, 8]}
            assert list(run.rows) == ["a"]
    assert len(calls) == 1
    assert (LOGS / "lab" / "x" / "config.yaml").read_text() == YAML


def test_a_step_that_fails_leaves_the_others() -> None:
    def fail() -> Row:
        raise RuntimeError("no")

    with Run("lab", "x", YAML) as run:
        run.step("a", lambda: {"x": 1})
        with pytest.raises(RuntimeError):
            run.step("b", fail)
    with Run("lab", "x", YAML) as run:
        assert run.rows == {"a": {"x": 1}}


def test_other_settings_are_refused_by_name_and_change_nothing() -> None:
    with Run("lab", "x", YAML) as run:
        run.step("a", lambda: {"x": 1})
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(ValueError, match=r"data\.limit_val: 3 → 4"):
        Run("lab", "x", YAML.replace("3", "4"))
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before
    with Run("lab", "x", YAML.replace("here", "there").replace("run: x", "run: y")) as run:
        assert run.rows == {"a": {"x": 1}}


def test_settings_leave_out_what_may_change_and_know_weights_by_content() -> None:
    text = "seed: 0\nrun: x\nfinetune: {epochs: 2}\ndata: {limit: 3}\nweights: a.ckpt\n"
    assert settings_of(text, weights="12ab") == {"seed": 0, "data": {"limit": 3}, "weights": "12ab"}
    assert settings_of(text, passing={"data.limit", "finetune"}) == {"seed": 0, "data": {}}


def test_a_damaged_file_is_refused_and_left_as_it_is() -> None:
    with Run("lab", "x", YAML) as run:
        run.step("a", lambda: {"x": 1})
    path = run.folder / "run.json"
    path.write_bytes(path.read_bytes()[:-9])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        Run("lab", "x", YAML)
    assert path.read_bytes() == before


def test_a_run_of_an_earlier_version_is_refused() -> None:
    folder = LOGS / "lab" / "x"
    folder.mkdir(parents=True)
    (folder / "ledger.json").write_text("{}")
    with pytest.raises(ValueError, match="made by an earlier version"):
        Run("lab", "x", YAML)


@pytest.mark.parametrize("name", ["", "../x", "/tmp/x"])
def test_a_run_stays_within_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a folder"):
        Run("lab", name, YAML)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lightning_logs").write_text("a file")
    with pytest.raises(ValueError, match=r"run='x': .* cannot be written"):
        Run("lab", "x", YAML)


def test_only_the_checkpoints_that_are_kept_stay() -> None:
    with Run("lab", "x", YAML) as run:
        for step in ("a", "b/1", "c"):
            run.checkpoint(step).parent.mkdir(exist_ok=True)
            run.checkpoint(step).touch()
        run.checkpoint("d").with_suffix(".part").touch()  # of a process that was killed
        run.keep(["b/1", "c"])
        assert {path.name for path in run.folder.glob("checkpoints/*")} == {"b_1.ckpt", "c.ckpt"}


def _open(folder: str, answer: "multiprocessing.Queue[str]") -> None:
    try:
        with Run("lab", "x", YAML):
            answer.put("opened")
    except ValueError as error:
        answer.put(str(error))


def test_a_run_belongs_to_one_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.Queue[str] = context.Queue()
    for expected in ("belongs to a run that is going on", "opened"):
        run = Run("lab", "x", YAML)
        if expected == "opened":
            run.close()
        process = context.Process(target=_open, args=(str(tmp_path), answer))
        process.start()
        assert expected in answer.get(timeout=30)
        process.join()
        run.close()


def test_a_torn_write_leaves_the_earlier_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with Run("lab", "x", YAML) as run:
        run.step("a", lambda: {"x": 1})

        def torn(self: Path, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", torn)
            with pytest.raises(OSError, match="No space left"):
                run.step("b", lambda: {"x": 2})
        assert json.loads((run.folder / "run.json").read_text())["steps"] == {"a": {"x": 1}}
        assert run.step("b", lambda: {"x": 3}) == {"x": 3}


def test_all_calls_of_a_run_choose_whether_to_compile_by_the_machine_that_it_began_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(machines, "_remembered", {})
    found = []
    for _ in range(2):
        machines._here.cache_clear()  # as another process
        with Run("lab", "x", "classifier: {compile: auto}\n") as run:
            run.begin()
        found.append(machines.machine("cpu"))
        machines.mark_compiled("later")
    assert found[0] == found[1]
    with Run("lab", "y", "classifier: {compile: true}\n") as run:
        run.begin()
    assert not (run.folder / "machine.json").exists()


class Backwards(Engine):
    """Begins all calls and ends the last one first, as workers may."""

    def run(self, driver: Driver) -> None:
        calls: list[Call] = []
        while (call := driver.next()) is not None:
            driver.began(call, len(calls) + 1)
            calls.append(call)
        results = [call.function(call.shared.value, call.argument, Mock()) for call in calls]
        for call, result in reversed([*zip(calls, results, strict=True)]):
            driver.ended(call, result)

    def close(self) -> None:
        pass


def test_steps_that_end_in_any_order_have_rows_in_theirs() -> None:
    works = {name: partial(letter, name=name) for name in "abcd"}
    with Run("lab", "x", YAML) as run:
        run.step("c", lambda: {"letter": "done before"})
        run.steps(works, Backwards())
        assert [*run.rows] == ["a", "b", "c", "d"]
    with Run("lab", "x", YAML) as run:
        assert [*run.rows] == ["a", "b", "c", "d"]
        run.steps(works, Backwards())
        assert run.rows["c"] == {"letter": "done before"}


def letter(run: Run, name: str) -> dict[str, str]:
    run.checkpoint(name).parent.mkdir(exist_ok=True)
    run.checkpoint(name).touch()
    return {"letter": name}


def test_the_checkpoint_of_a_step_that_a_worker_does_is_not_dropped() -> None:
    class Dropping(Run):
        def done(self, *arguments: Any, **more: Any) -> None:
            super().done(*arguments, **more)
            self.keep([])

    with Dropping("lab", "x", YAML) as run:
        run.steps({name: partial(letter, name=name) for name in "ab"}, Backwards())
        assert not run.checkpoint("b").exists()
        assert not run.checkpoint("a").exists()

    class Looking(Dropping):
        def done(self, name: str, *arguments: Any, **more: Any) -> None:
            self.checkpoint("c").with_suffix(".part").touch()
            super().done(name, *arguments, **more)
            if name == "d":
                unfinished = self.checkpoint("c").with_suffix(".part")
                assert self.checkpoint("c").exists()
                assert unfinished.exists()
                assert not self.checkpoint("d").exists()

    with Looking("lab", "x", YAML) as run:
        run.steps({name: partial(letter, name=name) for name in "cd"}, Backwards())
        assert [*run.rows] == ["a", "b", "c", "d"]

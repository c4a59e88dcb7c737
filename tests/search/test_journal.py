"""What a journal keeps of a search through kills and power cuts."""

import os
import stat
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from studies import Plain, run, study_of

from lightning_adls import search
from lightning_adls.search.journal import WholeLines

TRIALS = 4


class Disk:
    """Knows how much of a journal is on it for certain: what was there at its last fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path, self.sizes = path, [0]
        sync = os.fsync

        def noting(number: int) -> None:
            sync(number)
            if stat.S_ISREG(os.fstat(number).st_mode) and os.path.samestat(
                os.fstat(number), path.stat()
            ):
                self.sizes.append(os.fstat(number).st_size)

        monkeypatch.setattr(os, "fsync", noting)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    path = tmp_path / "journal"
    path.touch()
    return Disk(monkeypatch, path)


def plain(folder: Path) -> Any:
    return Plain(folder)


def told(study: optuna.Study) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in search.counted_trials(study)]


def test_what_is_told_is_on_the_disk_and_what_runs_is_not_waited_for(disk: Disk) -> None:
    study = study_of(disk.path)
    for number in range(3):
        trial = study.ask()
        before = len(disk.sizes)
        for name in "abc":
            trial.suggest_float(name, 0, 1)
        trial.set_user_attr("index", number)
        trial.report(0.5, 1)
        assert len(disk.sizes) == before, "nothing of a running trial is waited for"
        study.tell(trial, 0.5)
        assert disk.sizes[-1] == disk.path.stat().st_size, "its end is on the disk, with the rest"
    study.set_user_attr("test", {"accuracy": 0.5})
    assert disk.sizes[-1] == disk.path.stat().st_size
    study.ask()
    assert disk.sizes[-1] < disk.path.stat().st_size


def test_no_result_that_was_told_is_lost_wherever_a_power_cut_ends_the_file(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may have any part of what it was not asked to keep; here also with zeros in it."""
    path = disk.path
    monkeypatch.setattr("lightning_adls.search.lease._stale", lambda claim: True)  # it was this one
    run(study_of(path), plain(path.parent / "whole"), TRIALS, "random")
    whole = path.read_bytes()
    ends = sorted(set(disk.sizes))
    results = {
        size: sum(b'"op_code":6' in line for line in whole[:size].splitlines()) for size in ends
    }
    assert max(results.values()) == TRIALS
    expected = told(study_of(path))

    @given(st.data())
    def cut(data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(ends) - 1))
        synced, later = ends[place], [*ends, len(whole)][place + 1]
        tail = bytearray(whole[synced : data.draw(st.integers(synced, later))])
        if tail:
            begin = data.draw(st.integers(0, len(tail)))
            end = data.draw(st.integers(begin, len(tail)))
            tail[begin:end] = bytes(end - begin)
        path.write_bytes(whole[:synced] + tail)
        if synced:
            found = told(study_of(path))
            assert len(found) >= results[synced]
            assert found == expected[: len(found)]
        again = run(study_of(path), plain(path.parent / "again"), TRIALS, "random")
        assert again == expected, "and the search goes on to the same end"

    cut()


def test_damage_within_what_was_on_the_disk_is_said_and_nothing_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    run(study_of(path), plain(tmp_path / "run"), TRIALS, "random")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"\0" * 20 + b"\n"
    damaged = b"".join(lines)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="decode"):
        study_of(path)
    assert path.read_bytes() == damaged


def test_lines_that_optuna_wrote_are_continued(tmp_path: Path) -> None:
    """A journal of before, or of a dashboard: its format is Optuna's."""
    path = tmp_path / "journal"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    theirs = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), study_name="study", direction="maximize"
    )
    theirs.set_user_attr("settings", {})
    lines = path.read_bytes()
    ours = study_of(path)
    ours.tell(ours.ask(), 1.0)
    assert path.read_bytes().startswith(lines)
    again = optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="study")
    assert [(t.state, t.value) for t in again.trials] == [(TrialState.COMPLETE, 1.0)]


def test_the_lock_of_a_journal_is_free_after_each_line(tmp_path: Path) -> None:
    journal = WholeLines(tmp_path / "journal")
    journal.append_logs([{"op_code": 2, "worker_id": "", "study_id": 0, "user_attr": {"a": 1}}])
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]

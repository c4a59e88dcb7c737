"""Finished steps are kept, and belong to one process and one set of settings."""

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.ledger import Row, open_ledger
from lightning_adls.settings import differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_a_step_is_done_once_also_by_a_later_call(tmp_path: Path) -> None:
    calls: list[None] = []

    def work() -> Row:
        calls.append(None)
        return {"accuracy": 0.1 + 0.2, "widths": (4, 8)}

    for _ in range(2):
        with open_ledger(tmp_path / "ledger.json", {"seed": 0}) as ledger:
            row = ledger.once("a", work)
            assert ledger.once("a", work) == row == {"accuracy": 0.1 + 0.2, "widths": [4, 8]}
            assert list(ledger.rows) == ["a"]
    assert len(calls) == 1


def test_a_step_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def fail() -> Row:
        raise RuntimeError("no")

    with open_ledger(tmp_path / "ledger.json", {}) as ledger:
        ledger.once("a", lambda: {"x": 1})
        with pytest.raises(RuntimeError):
            ledger.once("b", fail)
    with open_ledger(tmp_path / "ledger.json", {}) as ledger:
        assert ledger.rows == {"a": {"x": 1}}


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    with open_ledger(path, {"seed": 0, "data": {"limit": (1, 2)}}) as ledger:
        ledger.once("a", lambda: {"x": 1})
    with (
        pytest.raises(ValueError, match=r"data\.limit was \[1, 2\], now \[1, 3\]"),
        open_ledger(path, {"seed": 0, "data": {"limit": [1, 3]}}),
    ):
        pass
    with open_ledger(path, {"seed": 0, "data": {"limit": [1, 2]}}):
        pass


def _open(path: str, answer: "multiprocessing.Queue[str]") -> None:
    try:
        with open_ledger(path, {}):
            answer.put("opened")
    except ValueError as error:
        answer.put(str(error))


def test_a_ledger_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.Queue[str] = context.Queue()
    with open_ledger(path, {}):
        process = context.Process(target=_open, args=(str(path), answer))
        process.start()
        assert "belongs to a run that is going on" in answer.get(timeout=30)
        process.join()


@given(before=JSON, now=JSON)
def test_differences_are_told_exactly_where_there_are_some(before: object, now: object) -> None:
    def nulls_out(value: object) -> object:  # a key that is missing and one that is null are alike
        if isinstance(value, dict):
            return {k: nulls_out(v) for k, v in value.items() if nulls_out(v) not in (None, {})}
        return value

    told = differences({"x": before}, {"x": now})
    if before == now:
        assert not told
    elif nulls_out({"x": before}) != nulls_out({"x": now}):
        assert told
    assert json.dumps(told)

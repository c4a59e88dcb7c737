"""Rows to files, figures and TensorBoard."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls import report


def test_csv_has_one_row_per_row_and_json_for_nested_values(tmp_path: Path) -> None:
    rows: list[report.Row] = [{"a": 1, "recipe": {"*": None}}, {"a": None, "recipe": {}}]
    report.write_csv(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["a"] for row in read] == ["1", ""]
    assert json.loads(read[0]["recipe"]) == {"*": None}


@given(st.lists(st.none() | st.floats(0, 1)))
def test_running_best_is_the_maximum_of_what_came_before(values: list[float | None]) -> None:
    bests = report.running_best(values)
    assert len(bests) == len(values)
    for place, best in enumerate(bests):
        seen = [value for value in values[: place + 1] if value is not None]
        assert best == max(seen, default=None)


STEPPED = st.dictionaries(st.integers(1, 8), st.floats(0, 1), max_size=6)


@given(st.lists(STEPPED, max_size=4))
def test_mean_and_range_are_those_of_the_values_that_hold_at_each_place(
    drawn: list[dict[int, float]],
) -> None:
    mean, spans = report.mean_and_range([sorted(curve.items()) for curve in drawn])
    # The oracle writes out the value at every place from 1 to 8; NaN before the first one.
    filled = [np.full(8, np.nan) for curve in drawn if curve]
    for row, curve in zip(filled, filter(None, drawn), strict=True):
        for x, y in sorted(curve.items()):
            row[x - 1 :] = y
    table = np.array(filled).reshape(-1, 8)
    whole = [x for x in range(1, 9) if filled and not np.isnan(table[:, x - 1]).any()]
    changed = [x for x in whole if x == whole[0] or (table[:, x - 1] != table[:, x - 2]).any()]
    assert [x for x, *_ in spans] == [x for x, _ in mean]
    assert set(changed) <= {x for x, _ in mean} <= set(whole)
    for (at, value), (_, low, high) in zip(mean, spans, strict=True):
        column = table[:, int(at) - 1]
        assert value == pytest.approx(column.mean())
        assert (low, high) == (column.min(), column.max())


def test_tensorboard_curves_are_replaced_and_not_drawn_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for curve in ([(1, 0.5)], [(1, 0.5), (2, 0.75)]):
        report.log_curves(tmp_path, "best", {"Integer": curve})
    events = EventAccumulator(str(tmp_path / "Integer"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("best")] == [(1, 0.5), (2, 0.75)]


def test_a_file_being_written_never_replaces_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    report.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        report.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}

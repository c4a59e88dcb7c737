"""Rows to files, figures and TensorBoard."""

import csv
import json
from pathlib import Path

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


def test_figure_is_a_png_also_with_an_empty_curve_and_many_curves(tmp_path: Path) -> None:
    curves = {f"study {n}": [(1, 0.5), (2, 0.5 + n / 100)] for n in range(25)} | {"none": []}
    path = tmp_path / "curves.png"
    report.draw_curves(path, curves, title="t", x_label="x", y_label="y")
    assert path.read_bytes().startswith(b"\x89PNG")
    report.draw_curves(path, {"none": []}, title="t", x_label="x", y_label="y")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


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

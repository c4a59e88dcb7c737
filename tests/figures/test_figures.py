"""What is drawn of which numbers, and how."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread

from lightning_adls.figures import (
    Candidate,
    Point,
    Stairs,
    canvas,
    draw_bars,
    draw_confusions,
    draw_format_map,
    draw_front,
    draw_heat_map,
    draw_importances,
    draw_points,
    draw_steps,
)
from lightning_adls.figures.front import pareto_front
from lightning_adls.figures.maps import in_short
from lightning_adls.figures.styles import FORMATS, styles
from lightning_adls.formats import __all__ as formats

STEPS = partial(draw_steps, "x.png", title="t", x_label="x", y_label="y")
POINTS = partial(draw_points, "x.png", title="t", x_label="x", y_label="y")
Drawn = list[Any]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures of matplotlib that were drawn; to write them takes the longest."""
    found: list[Any] = []

    def keep(made: Any, path: Path) -> None:
        made.draw_without_rendering()
        found.append(made)

    monkeypatch.setattr(canvas, "_save", keep)
    return found


def line(axes: Any, label: str) -> Any:
    """What the legend shows by a label that begins so."""
    handles, labels = axes.get_legend_handles_labels()
    return next(h for h, text in zip(handles, labels, strict=True) if text.startswith(label))


def test_a_figure_is_a_png_of_200_dots_per_inch_and_a_pdf_and_the_same_again(
    tmp_path: Path,
) -> None:
    contents = []
    for _ in range(2):
        draw_steps(
            tmp_path / "curves.png",
            {"Integer": Stairs([(1, 0.5), (2, 0.6)]), "none": Stairs([])},
            title="t",
            x_label="x",
            y_label="y",
            subtitle="a data set",
        )
        assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "curves.pdf"}
        contents.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert imread(tmp_path / "curves.png").shape[:2] == (960, 1800)
    assert contents[0][0].startswith(b"%PDF")
    assert contents[0] == contents[1]


def test_a_step_curve_ends_in_a_step_that_can_be_seen_and_a_short_one_goes_on(drawn: Drawn) -> None:
    STEPS({"long": Stairs([(1, 0.5), (4, 0.9)]), "short": Stairs([(1, 0.7)], error=0.01)})
    (axes,) = drawn[0].axes
    ends = [drawn_line.get_xdata()[-1] for drawn_line in axes.lines if len(drawn_line.get_xdata())]
    assert max(ends) == 4.5
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["long  0.900", "short  0.700 ± 0.010"], "the best first, with its value"
    tail = [one for one in axes.lines if list(one.get_ydata()) == [0.7, 0.7]]
    assert any(list(one.get_xdata()) == [1, 4.5] for one in tail)
    assert len(axes.containers) == 1, "the error of one"


def test_a_band_reaches_the_end_of_its_curve(drawn: Drawn) -> None:
    STEPS({"a": Stairs([(1, 0.5), (3, 0.6)], band=[(1, 0.4, 0.6), (2, 0.5, 0.7)])})
    (band,) = drawn[0].axes[0].collections
    box = band.get_datalim(drawn[0].axes[0].transData)
    assert (box.x0, box.x1, box.y0, box.y1) == pytest.approx((1, 3.5, 0.4, 0.7))


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (7, 1), (8, 2), (15, 3)])
def test_more_than_seven_curves_get_several_panels(drawn: Drawn, count: int, panels: int) -> None:
    names = [f"study {n}" for n in range(count)]
    STEPS({name: Stairs([(1, 0.5), (2, 0.5 + n / 100)]) for n, name in enumerate(names)})
    POINTS({name: [Point(1, 0.5, 0.1), Point(2, 0.6, None)] for name in names})
    for figure in drawn:
        seen = [axes.get_legend_handles_labels()[1] for axes in figure.axes if axes.get_visible()]
        assert len(seen) == panels
        assert max(map(len, seen)) <= 7
        assert sum(map(len, seen)) == count, "each is named once"


def test_what_lies_far_below_is_marked_at_the_edge(drawn: Drawn) -> None:
    values = [0.5, 0.86, 0.87, 0.88, 0.87, 0.86]
    POINTS({"a": [Point(n, y, 0.01) for n, y in enumerate(values)]}, compare={"chance": 0.5})
    (axes,) = drawn[0].axes
    assert axes.get_ylim()[0] > 0.75
    (marks,) = (one for one in axes.lines if one.get_marker() == "v")
    assert list(marks.get_xdata()) == [0]
    assert line(axes, "chance  0.500, outside")
    POINTS({"a": [Point(n, y) for n, y in enumerate(values[1:])]})
    assert not [one for one in drawn[1].axes[0].lines if one.get_marker() == "v"]


def test_levels_are_dashed_and_named_with_their_value(drawn: Drawn) -> None:
    POINTS({"a": [Point(4, 0.8), Point(8, 0.9)]}, compare={"float32": 0.91})
    level = line(drawn[0].axes[0], "float32  0.910")
    assert list(level.get_ydata()) == [0.91, 0.91]
    assert level.get_linestyle() == "--"


def test_a_level_has_a_band_of_its_standard_error(drawn: Drawn) -> None:
    POINTS({"a": [Point(4, 0.8), Point(8, 0.9)]}, compare={"float32": (0.91, 0.01)})
    (axes,) = drawn[0].axes
    assert line(axes, "float32  0.910 ± 0.010").get_ydata()[0] == 0.91
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((0.9, 0.02))


def test_the_legend_and_the_title_cover_nothing(drawn: Drawn) -> None:
    names = ["a rather long name of a curve", *map(str, range(13))]
    title, subtitle = "a title of many words " * 6, "data, rows and seed " * 12
    about = {"title": title, "x_label": "x", "y_label": "y", "subtitle": subtitle}
    curves = {name: Stairs([(1, 0.5), (2, 0.6)]) for name in names}
    draw_steps("x.png", curves, **about)  # type: ignore[arg-type]
    draw_points("x.png", {"a": [Point(1, 2)]}, **about)  # type: ignore[arg-type]
    for figure in drawn:
        # The title has empty lines where the subtitle is.
        above, below = (text.get_window_extent() for text in figure.texts)
        boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for place, one in enumerate(boxes):
            assert not any(one.overlaps(other) for other in [*boxes[place + 1 :], above, below])
        inside = [*boxes, above, below]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in inside)
        assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in inside)
        lines = figure.texts[0].get_text().splitlines()
        empty = sum(not line.strip() for line in lines)
        assert below.y1 <= above.y0 + _height(above) * (empty / len(lines)) + 1


def _height(box: Any) -> float:
    return float(box.y1 - box.y0)


def test_a_format_looks_the_same_in_every_figure(drawn: Drawn) -> None:
    STEPS({"Log": Stairs([(1, 0.5)]), "MXInt": Stairs([(1, 0.6)])})
    POINTS({"MXInt": [Point(1, 0.5)], "mine": [Point(1, 0.4)]})
    draw_front("x.png", [Candidate("MXInt", 4, 0.5)], title="t", x_label="bits", y_label="accuracy")
    colors = {
        to_hex(line(drawn[0].axes[0], "MXInt").get_color()),
        to_hex(line(drawn[1].axes[0], "MXInt").lines[0].get_color()),
        to_hex(drawn[2].axes[0].collections[0].get_facecolor()[0]),
    }
    assert colors == {FORMATS["MXInt"].color.lower()}


def test_all_formats_are_told_apart_and_have_the_colour_of_their_family() -> None:
    assert set(formats) - {"Encoded", "NumberFormat", "parse"} <= set(FORMATS)
    looks = styles([*FORMATS, *(f"other {n}" for n in range(20))])
    named = {name: look for name, look in looks.items() if name not in ("float32", "ResidualSign")}
    assert len(set(named.values())) == len(named)
    assert FORMATS["BlockFP"].color == FORMATS["BlockLog"].color != FORMATS["MXInt"].color


CANDIDATES = st.lists(st.builds(Candidate, st.just("a"), st.integers(1, 6), st.integers(1, 6)))


@given(CANDIDATES)
def test_the_front_is_what_nothing_beats(candidates: list[Candidate]) -> None:
    def beaten(one: Candidate) -> bool:
        return any(
            (other.cost <= one.cost and other.accuracy > one.accuracy)
            or (other.cost < one.cost and other.accuracy >= one.accuracy)
            for other in candidates
        )

    front = {(one.cost, one.accuracy) for one in pareto_front(candidates)}
    assert front == {(one.cost, one.accuracy) for one in candidates if not beaten(one)}


def test_bars_have_heights_in_proportion_and_one_colour_per_name(drawn: Drawn) -> None:
    groups = {"first": {"eager": 4.0, "compiled": 1.0}, "second": {"eager": 2.0}}
    draw_bars("x.png", groups, title="t", y_label="ms")
    draw_bars("x.png", groups, title="t", y_label="ms", log=True)
    for figure in drawn:
        eager, compiled = figure.axes[0].containers
        assert [bar.get_height() for bar in eager] == [4.0, 2.0]
        assert [bar.get_height() for bar in compiled] == [1.0]
        assert len({bar.get_facecolor() for bar in eager}) == 1
        assert eager[0].get_facecolor() != compiled[0].get_facecolor()
    low, high = drawn[1].axes[0].get_ylim()
    assert 0 < low < 1
    assert high > 4


def test_a_map_names_the_format_of_each_tensor(drawn: Drawn) -> None:
    layers: dict[str, dict[str, str | None]] = {
        "bert.encoder.layer.1.output": {"weight": "MXInt(width=4, block_size=32)", "bias": None},
        "classifier": {"input": "BlockFP(width=8, exponent_width=3, block_size=(-1, 16))"},
    }
    draw_format_map("x.png", layers, title="t")
    (axes,) = drawn[0].axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        *("full precision", "MXInt 4 bits, block 32", "full precision"),
        *("BlockFP 8 bits, exp. 3, block (-1, 16)", "full precision", "full precision"),
    ]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["layer 1 output", "classifier"]
    assert in_short("Binary(scale=per_channel)") == "Binary scale per_channel"


def test_a_confusion_matrix_has_counts_shares_and_the_accuracy(drawn: Drawn) -> None:
    matrices = {"float32": [[9, 1], [4, 6]], "int8": [[0, 0], [5, 5]]}
    draw_confusions("x.png", matrices, ["no", "yes"], title="t")
    first, second = drawn[0].axes
    assert [t.get_text() for t in first.texts] == ["9\n90.0%", "1\n10.0%", "4\n40.0%", "6\n60.0%"]
    assert first.get_title() == "float32\n0.750 ± 0.097"  # of 20 rows
    assert second.texts[0].get_text() == "0\n0.0%", "a class that never occurs"


def test_the_largest_importances_come_first(drawn: Drawn) -> None:
    shares = {f"choice {n}": n / 190 for n in range(20)}
    found = {"Integer": shares, "Log": {"a": 1.0}}
    draw_importances("x.png", found, {"Integer": 30, "Log": 4}, title="t")
    first, second = drawn[0].axes
    assert [one.get_title() for one in (first, second)] == ["Integer, 30 trials", "Log, 4 trials"]
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels == [f"choice {n}" for n in range(19, 7, -1)]
    assert [bar.get_width() for bar in second.containers[0]] == [1.0]


def test_points_of_several_curves_at_one_x_stand_beside_each_other(drawn: Drawn) -> None:
    same = [Point(4, 0.8, 0.01), Point(6, 0.8, 0.01), Point(32, 0.1, 0.01)]
    curves = dict.fromkeys("abc", same)
    POINTS(curves)
    POINTS(curves, log=True)
    apart, together = (
        [list(line(made.axes[0], name).lines[0].get_xdata()) for name in curves] for made in drawn
    )
    for places in zip(*apart, strict=True):
        assert sorted(set(places)) == list(places), "in the order of the legend"
        assert max(places) - min(places) <= 1, "within half of the way to the next"
    assert apart[1] == [4, 6, 32], "that in the middle stands where it was measured"
    assert together == [[4, 6, 32]] * 3


@pytest.mark.parametrize(
    ("places", "log"),
    [
        ([], False),
        *(([4.0], log) for log in (False, True)),
        *(([1, 10, 100], log) for log in (False, True)),
        *(([2, 2.01, 8], log) for log in (False, True)),
    ],
)
def test_points_are_named_below_where_there_is_room(
    drawn: Drawn, places: list[float], log: bool
) -> None:
    POINTS({"a": [Point(x, 0.5) for x in places]}, log=log)
    ticks = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    named = ticks == [canvas.plain(x) for x in places]
    assert named == (2.01 not in places)


@pytest.mark.parametrize("lowest", [0.739, 0.74, 0.741])
def test_no_point_lies_half_upon_the_edge_that_others_are_cut_off_at(
    lowest: float, drawn: Drawn
) -> None:
    values = [0.1, lowest, *[0.8] * 8]  # 1.5 times 0.04 below the quartiles is 0.74
    POINTS({"a": [Point(n, value, 0.01) for n, value in enumerate(values)]})
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.73 < low < lowest
    assert lowest - low >= 0.9 * 0.02 * (high - low), "more than half of a marker"
    assert high < 0.82, "the margin is one of what is shown"


def test_the_front_goes_on_to_the_dearest_and_is_compared(drawn: Drawn) -> None:
    found = [Candidate("a", 4, 0.8, 0.01), Candidate("a", 8, 0.85, 0.01), Candidate("a", 32, 0.8)]
    compare = {"float32": 0.86, "chance": 0.5}
    draw_front("x.png", found, title="t", x_label="bits", y_label="accuracy", compare=compare)
    axes = drawn[0].axes[0]
    assert list(line(axes, "Pareto front").get_xdata()) == [4, 8, 32]
    assert list(line(axes, "Pareto front").get_ydata()) == [0.8, 0.85, 0.85]
    assert list(line(axes, "float32").get_ydata()) == [0.86, 0.86]
    assert line(axes, "chance").get_label() == "chance  0.500, outside"
    assert {4, 8, 16, 32} <= set(axes.get_xticks())


def test_very_many_bars_have_no_numbers_that_would_overlap(drawn: Drawn) -> None:
    for bars in (5, 41):
        groups = {"all": {f"bar {n}": float(n) for n in range(bars)}}
        draw_bars("x.png", groups, title="t", y_label="ms")
    assert [len(made.axes[0].texts) for made in drawn] == [5, 0]


def test_a_short_logarithmic_axis_has_numbers_enough(drawn: Drawn) -> None:
    found = [Candidate("a", cost, 0.8) for cost in (0.15, 0.65)]
    draw_front("x.png", found, title="t", x_label="MB", y_label="accuracy", log=True)
    axes = drawn[0].axes[0]
    low, high = axes.get_xlim()
    shown = [x for x in axes.get_xticks() if low <= x <= high]
    assert [round(x, 1) for x in shown] == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_a_heat_map_is_dark_where_scores_are_high_and_empty_where_there_is_none(
    drawn: Drawn,
) -> None:
    scores = {
        "bert.encoder.layer.0.output": {"MXInt(width=2)": 1e-2, "MXInt(width=8)": 0.0},
        "head": {"MXInt(width=2)": 1e-6},
    }
    draw_heat_map("x.png", scores, title="t", label="nats")
    axes, bar = drawn[0].axes
    (image,) = axes.images
    shown = image.get_array()
    assert shown.shape == (2, 2)
    assert shown[0, 0] == 1e-2
    assert shown[0, 1] == shown[1, 0] == 1e-6
    assert shown.mask.tolist() == [[False, False], [False, True]]
    assert image.norm(1e-2) == 1
    assert image.norm(1e-6) == 0
    assert [t.get_text() for t in axes.get_yticklabels()] == ["layer 0 output", "head"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["MXInt 2 bits", "MXInt 8 bits"]
    assert bar.get_ylabel() == "nats"


def test_a_heat_map_of_zeros_is_drawn(drawn: Drawn) -> None:
    draw_heat_map("x.png", {"head": {"MXInt(width=8)": 0.0}}, title="t")
    assert len(drawn) == 1

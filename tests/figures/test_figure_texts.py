"""No text of a figure lies on another, or beyond its edge, however long the names are."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text

from lightning_adls import formats
from lightning_adls.figures import (
    Point,
    Stairs,
    canvas,
    draw_bars,
    draw_confusions,
    draw_format_map,
    draw_heat_map,
    draw_importances,
    draw_points,
    draw_steps,
)
from lightning_adls.formats import NumberFormat
from lightning_adls.formats import __all__ as names

LONG = "BinaryResidualSign_one_shot"
STUDIES = [f"{LONG} {n}" for n in range(5)]
LAYERS = [f"bert.encoder.layer.{n}.attention.output.dense" for n in range(10, 14)]


def every_parameter(kind: type[NumberFormat]) -> str:
    """A format as long as its text can be."""
    made = kind()
    return (
        f"{kind.__name__}({', '.join(f'{f.name}={getattr(made, f.name)}' for f in fields(made))})"
    )


KINDS = [k for n in names if isinstance(k := getattr(formats, n), type) and n != "NumberFormat"]
TEXTS = [every_parameter(kind) for kind in KINDS if issubclass(kind, NumberFormat)]
FIGURES: Mapping[str, Callable[..., object]] = {
    "bars": partial(draw_bars, groups={s: {LONG: 1.0, "b": 2.0} for s in STUDIES}, y_label="ms"),
    "confusions": partial(
        draw_confusions,
        matrices={name: [[9, 1], [4, 6]] for name in STUDIES},
        classes=["no", "yes"],
    ),
    "heat": partial(draw_heat_map, scores={n: dict.fromkeys(TEXTS, 1.0) for n in LAYERS}),
    "importances": partial(
        draw_importances,
        importances={s: {f"{n} weight exponent_bias": 0.25 for n in LAYERS} for s in STUDIES},
        trials=dict.fromkeys(STUDIES, 12),
    ),
    "map": partial(
        draw_format_map,
        formats={f"{LAYERS[0]}{n}": {"weight": t, "input": t} for n, t in enumerate(TEXTS)},
    ),
    "points": partial(
        draw_points, curves={s: [Point(1, 0.5, 0.1)] for s in STUDIES}, x_label="x", y_label="y"
    ),
    "steps": partial(
        draw_steps,
        curves={s: Stairs([(1, 0.5), (2, 0.6)]) for s in STUDIES},
        x_label="x",
        y_label="y",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_apart_and_whole(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(canvas, "_save", lambda made, path: found.append(made))
    FIGURES[name](tmp_path / "figure.png", title="Title", subtitle="Subtitle " * 12)
    (made,) = found
    made.draw_without_rendering()
    texts = {text: text.get_window_extent() for text in seen(made)}
    assert len(texts) > 5
    outside = [t.get_text() for t, box in texts.items() if not within(box, made.bbox)]
    assert outside == []
    on_another = [
        (a.get_text(), b.get_text())
        for (a, first), (b, second) in combinations(texts.items(), 2)
        if first.padded(-1).overlaps(second.padded(-1)) and not are_parallel(a, b)
    ]
    assert on_another == []


def are_parallel(a: Text, b: Text) -> bool:
    """Whether two slanted texts lie beside each other, as far apart as they are high."""
    angle = a.get_rotation()
    if angle % 90 == 0 or angle != b.get_rotation():
        return False
    begins = [float(text.get_transform().transform(text.get_position())[0]) for text in (a, b)]
    height = float(a.get_fontsize()) / 72 * canvas.DPI
    return abs(begins[0] - begins[1]) * math.sin(math.radians(angle)) > height


def seen(made: Any) -> Iterator[Text]:
    """The texts that are drawn, but the title, which has room below it for the subtitle."""
    every = [*made.texts[1:], *(text for legend in made.legends for text in legend.get_texts())]
    for axes in made.axes:
        if not axes.get_visible():
            continue
        every += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            labels = axis.get_majorticklabels()
            every += [each for each in labels if low <= each.get_position()[place] <= high]
    yield from (each for each in every if each.get_visible() and each.get_text().strip())


def within(box: Any, edge: Any) -> bool:
    """Whether a text ends before the edge, by less than a pixel."""
    return bool(
        box.x0 >= edge.x0 - 1
        and box.y0 >= edge.y0 - 1
        and box.x1 <= edge.x1 + 1
        and box.y1 <= edge.y1 + 1
    )

"""What was measured at some values of x: marked points with error bars, joined by lines."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_adls.figures.canvas import (
    MOST_CURVES,
    Levels,
    cut,
    figure,
    levels,
    plain,
    plain_log,
    robust_bottom,
)
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MOST_TICKS = 16  # that a panel has room for


class Point(NamedTuple):
    """A value of y at x, and its standard error, None if it has none."""

    x: float
    y: float
    error: float | None = None


def draw_points(
    path: str | Path,
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    compare: Levels | None = None,
    log: bool = False,
) -> Picture:
    """Draw points joined by lines; more than seven curves share their axes in several panels.

    Points of several curves at the same x stand a little beside each other, so that each is seen.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        curves: By name, each in rising order of x.
        title: Above the figure.
        x_label: Below it.
        y_label: Beside it.
        subtitle: Below the title.
        compare: Values of y to compare with, by name; dashed, with a band of one standard error.
        log: Logarithmic on both axes. Else the y axis leaves out what lies far below the rest, and
            marks it at its edge: it is made for accuracies.
    """
    looks = styles(curves)
    names = list(curves)
    panels = max(1, -(-len(names) // MOST_CURVES))
    each = max(1, -(-len(names) // panels))
    bottom = None if log else robust_bottom([p.y for curve in curves.values() for p in curve])
    places = sorted({p.x for curve in curves.values() for p in curve})
    step = 0.0 if log else _step(places, each)
    with figure(path, title, subtitle, panels=panels) as axes:
        for place, one in enumerate(axes):
            own = names[place * each : (place + 1) * each]
            below = {}
            for n, name in enumerate(own):
                look = looks[name]
                errors = [point.error or 0 for point in curves[name]]
                aside = step * (n - (len(own) - 1) / 2)
                below[name] = [(point.x + aside, point.y) for point in curves[name]]
                one.errorbar(
                    [x for x, _ in below[name]],
                    [y for _, y in below[name]],
                    yerr=errors if any(errors) else None,
                    label=name,
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.line,
                    markersize=5,
                    linewidth=1.5,
                    elinewidth=0.9,
                    capsize=2,
                )
            cut(one, bottom, below, {name: look.color for name, look in looks.items()})
            levels(one, compare or {}, bottom)
            _ticks(one, places, log)
            one.set(xlabel=x_label, ylabel=y_label if place % 3 == 0 else "")
            one.grid(alpha=0.3)
    return Picture(Path(path).with_suffix(".png"))


def _step(places: Sequence[float], curves: int) -> float:
    """From a curve to the next, at the same x: all of them take half of the smallest distance."""
    gaps = [right - left for left, right in pairwise(places)]
    return 0.5 * min(gaps, default=0.0) / max(curves, 5)


def _ticks(axes: "Axes", places: Sequence[float], log: bool) -> None:
    """Ticks where something was measured, as long as they have room."""
    from matplotlib.ticker import NullLocator

    if log:
        axes.set(xscale="log", yscale="log")
        plain_log(axes.yaxis)
        axes.xaxis.set_minor_locator(NullLocator())
    at = [log10(x) for x in places] if log else places
    span = at[-1] - at[0] if at else 0.0
    if all(right - left >= span / _MOST_TICKS for left, right in pairwise(at)):
        axes.set_xticks(places, [plain(x) for x in places])

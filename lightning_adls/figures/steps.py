"""Curves that keep their value until the next point, such as the best so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_adls.figures.canvas import (
    MOST_CURVES,
    Levels,
    cut,
    figure,
    levels,
    robust_bottom,
    with_error,
)
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import GREY, styles

Span = tuple[float, float, float]


@dataclass(frozen=True)
class Stairs:
    """A stepped curve.

    Args:
        points: ``(x, y)`` in rising order of x.
        band: ``(x, lowest, highest)``, such as the range over seeds; shaded.
        error: Standard error of the last value, drawn as a bar at the end; None for none.
    """

    points: Sequence[tuple[float, float]]
    band: Sequence[Span] = ()
    error: float | None = None


def draw_steps(
    path: str | Path,
    curves: Mapping[str, Stairs],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    compare: Levels | None = None,
    mode: Literal["max", "min"] = "max",
) -> Picture:
    """Draw stepped curves, the best last value first in the legend.

    More than seven share their axes in several panels, where each is seen before the pale others.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        curves: By name; a name of a format has the format's colour. A curve that ends before the
            longest goes on flat: a search that tried all it could has its last value for good.
        title: Above the figure.
        x_label: Below it.
        y_label: Beside it.
        subtitle: Below the title.
        compare: Values of y to compare with, by name; dashed, with a band of one standard error.
        mode: Whether the best is the highest, or the lowest.
    """
    from matplotlib.ticker import MaxNLocator

    ranked = sorted(
        ((name, curve) for name, curve in curves.items() if curve.points),
        key=lambda item: item[1].points[-1][1],
        reverse=mode == "max",
    )
    looks = styles(curves)  # of all: a curve that is still empty takes no other's colour
    panels = max(1, -(-len(ranked) // MOST_CURVES))
    each = max(1, -(-len(ranked) // panels))
    first = min((curve.points[0][0] for _, curve in ranked), default=1)
    last = max((curve.points[-1][0] for _, curve in ranked), default=1)
    # Half a step further than the last point, so that its value can be seen.
    end = last + max(0.5, 0.02 * (last - first))
    values = [y for _, curve in ranked for _, y in curve.points]
    bottom = robust_bottom(values) if mode == "max" else None
    size = None if panels > 1 else (9.0, 4.8)
    with figure(path, title, subtitle, panels=panels, size=size) as axes:
        for place, one in enumerate(axes):
            own = ranked[place * each : (place + 1) * each]
            for name, curve in ranked:
                if (name, curve) not in own:
                    x, y = zip(*_until(end, curve.points), strict=True)
                    one.plot(x, y, drawstyle="steps-post", color=GREY, alpha=0.25, linewidth=0.8)
            for turn, (name, curve) in enumerate(own):
                look = looks[name]
                x, y = zip(*_until(end, curve.points), strict=True)
                one.plot(
                    x[:-1],
                    y[:-1],
                    drawstyle="steps-post",
                    label=f"{name}  {with_error(y[-1], curve.error)}",
                    color=look.color,
                    linestyle=look.line,
                    marker=look.marker,
                    markersize=4.5,
                    linewidth=1.7,
                )
                one.plot(x[-2:], y[-2:], color=look.color, linestyle=look.line, linewidth=1.7)
                if curve.band:
                    x, low, high = zip(*_until(end, curve.band), strict=True)
                    one.fill_between(
                        x, low, high, step="post", color=look.color, alpha=0.15, linewidth=0
                    )
                if curve.error is not None:
                    # Side by side within the last half step: of equals each is seen.
                    at = end - (end - last) * 0.8 * turn / len(own)
                    one.errorbar(at, y[-1], curve.error, color=look.color, capsize=2, fmt="none")
            if panels > 1:
                places = f"{place * each + 1} to {place * each + len(own)}"
                one.set_title(f"places {places} of {len(ranked)}", fontsize=9)
            cut(
                one,
                bottom,
                {name: curve.points for name, curve in own},
                {name: look.color for name, look in looks.items()},
            )
            levels(one, compare or {}, bottom)
            one.xaxis.set_major_locator(MaxNLocator(integer=True))
            one.set(xlabel=x_label, ylabel=y_label if place % 3 == 0 else "")
            one.grid(alpha=0.3)
    return Picture(Path(path).with_suffix(".png"))


def _until(end: float, points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The points, and the values of the last of them at ``end``."""
    return [*points, (end, *points[-1][1:])]

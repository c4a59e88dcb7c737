"""What all figures have in common: title, panels, levels, a legend beside them, two files."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from lightning_adls.figures.styles import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200
# More cannot be told apart; the others get a panel of their own.
MOST_CURVES = 7
_LEVEL = "level"

# A value to compare with, with its standard error where it has one.
Level = float | tuple[float, float | None]
Levels = Mapping[str, Level]


@contextmanager
def figure(
    path: str | Path,
    title: str,
    subtitle: str = "",
    *,
    panels: int = 1,
    columns: int = 3,
    size: tuple[float, float] | None = None,
    shared: bool = True,
) -> Iterator[list["Axes"]]:
    """Axes to draw on, one for each panel; then a PNG and a PDF file, each replaced in one step.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        title: Above the figure.
        subtitle: Below the title, smaller.
        panels: How many axes.
        columns: Most of them in a row.
        size: Of the figure in inches; by default it grows with the panels.
        shared: Whether all panels have the same axes.
    """
    # pyplot keeps global state and may look for a display; Figure does neither.
    from matplotlib.figure import Figure

    across = min(panels, columns)
    down = -(-panels // across)
    size = size or ((9.0, 5.0) if panels == 1 else (4.4 * across + 1.8, 3.4 * down + 1.0))
    # At the resolution of the file: the width of text depends on it a little.
    made = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = made.subplots(down, across, squeeze=False, sharex=shared, sharey=shared)
    axes = list(grid.flat)
    for empty in axes[panels:]:
        empty.set_visible(False)
    yield axes[:panels]
    heading = textwrap.wrap(title, int(size[0] * 10))
    below = textwrap.wrap(subtitle, int(size[0] * 16))
    # The layout makes room for the subtitle by empty lines, which are as high as those above.
    lines = "\n".join([*heading, *(" " for _ in below)])
    top = made.suptitle(lines, x=0.01, ha="left", fontsize=11, weight="bold")
    _legend(made, axes[:panels])
    for _ in range(2):  # the first pass has the place of labels from before it
        made.draw_without_rendering()
    made.set_layout_engine("none")  # laid out once, for both files
    if below:
        box = top.get_window_extent().transformed(made.transFigure.inverted())
        y = box.y1 - box.height * len(heading) / (len(heading) + len(below))
        made.text(0.01, y, "\n".join(below), va="top", fontsize=8.5, color=GREY)
    _save(made, Path(path))


def text_width(texts: Iterable[str], points: float) -> float:
    """How wide the widest text is, in inches.

    Args:
        texts: Of one line each.
        points: Size of the font.
    """
    from matplotlib.textpath import TextPath

    widths = (TextPath((0, 0), text, size=points).get_extents().x1 for text in texts)
    return float(max(widths, default=0)) / 72


def _legend(made: Any, axes: Sequence["Axes"]) -> None:
    """Beside the panels, where it covers nothing; names that several panels have stand once."""
    handles: dict[str, Any] = {}
    for one in axes:
        handles |= dict(zip(*reversed(one.get_legend_handles_labels()), strict=True))
    if handles:
        ranked = sorted(handles.items(), key=lambda item: _is_level(item[1]))
        made.legend(
            [handle for _, handle in ranked],
            [name for name, _ in ranked],
            loc="outside right center",
            fontsize=8.5,
            frameon=False,
        )


def _is_level(handle: Any) -> bool:
    return hasattr(handle, "get_gid") and handle.get_gid() == _LEVEL


def _save(made: Any, path: Path) -> None:
    # Without the date, so that the same rows give the same bytes.
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        part = path.with_suffix(f".part{suffix}")
        made.savefig(part, dpi=DPI, metadata=metadata)
        part.replace(path.with_suffix(suffix))


def levels(axes: "Axes", values: Levels, bottom: float | None = None) -> None:
    """Dashed lines at values to compare with, such as chance; the legend has their numbers.

    A standard error is a pale band around its line. One that lies below ``bottom``, or so far from
    what is drawn that it would leave no room for it, is in the legend alone.
    """
    low, high = axes.get_ylim()
    room = 0.6 * (high - low)
    for place, (name, level) in enumerate(values.items()):
        value, error = level if isinstance(level, tuple) else (level, None)
        near = (low - room if bottom is None else bottom) <= value <= high + room
        axes.plot(
            [0, 1] if near else [],
            [value, value] if near else [],
            transform=axes.get_yaxis_transform(),
            color=GREY,
            linewidth=1.2,
            linestyle=("--", ":", "-.")[place % 3],
            label=f"{name}  {with_error(value, error)}{'' if near else ', outside'}",
            gid=_LEVEL,
            zorder=1,
        )
        if near and error:
            axes.axhspan(
                value - error, value + error, color=GREY, alpha=0.12, linewidth=0, zorder=0
            )


def with_error(value: float, error: float | None) -> str:
    """A value of an axis of accuracies in words.

    Example:
        >>> with_error(0.86, 0.0123), with_error(0.5, None)
        ('0.860 ± 0.012', '0.500')
    """
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def robust_bottom(values: Sequence[float]) -> float | None:
    """Where an axis of accuracies begins, if some lie far below the others; else None.

    That is below the lower quartile by one and a half times the distance of the quartiles, as in
    Tukey 1977, "Exploratory Data Analysis", which is taken to be 0.04 at least.

    Example:
        >>> robust_bottom([0.5, 0.85, 0.86, 0.86, 0.87, 0.88])
        0.7925
        >>> robust_bottom([0.7, 0.8, 0.8, 0.9]) is None
        True
    """
    if len(values) < 4:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    fence = round(low - 1.5 * max(high - low, 0.04), 4)
    return fence if min(values) < fence else None


def plain(value: float) -> str:
    """A number of an axis in full.

    Example:
        >>> plain(1e6), plain(0.25)
        ('1,000,000', '0.25')
    """
    return f"{value:,.9g}"


def plain_log(axis: Any) -> None:
    """Write the numbers of a logarithmic axis in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 1e4 * low else (1,)
    axis.set_major_locator(LogLocator(subs=range(1, 10) if high < 8 * low else subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _clear(edge: float, values: Sequence[float], room: float) -> float:
    """The edge, lowered until no value lies half upon it."""
    while near := [value for value in values if abs(value - edge) < room]:
        edge = min(near) - 1.001 * room
    return edge


def cut(
    axes: "Axes",
    bottom: float | None,
    points: Mapping[str, Sequence[tuple[float, float]]],
    colors: Mapping[str, str],
) -> None:
    """Begin the y axis at ``bottom``, and mark what lies below it by triangles at the edge."""
    if bottom is None:
        return
    top = axes.dataLim.y1  # the margin was one of all that is drawn, and is too wide now
    room = 0.02 * (top - bottom)
    bottom = _clear(bottom, [y for found in points.values() for _, y in found], room)
    axes.set_ylim(bottom, top + 2 * room)
    transform = axes.get_xaxis_transform()  # x of the data, y of the axes
    for name, found in points.items():
        below = [x for x, y in found if y < bottom]
        if not below:  # the layout would make room for an empty line in the corner
            continue
        axes.plot(
            below,
            [0.012] * len(below),
            linestyle="none",
            marker="v",
            markersize=6,
            color=colors[name],
            markeredgecolor="white",
            markeredgewidth=0.4,
            transform=transform,
            clip_on=False,
            zorder=5,
        )

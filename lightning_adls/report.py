"""Results are rows: the same rows become a CSV file, a figure and TensorBoard curves."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Curve = Sequence[tuple[float, float]]
Span = tuple[float, float, float]


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows under the keys of the first; mappings and lists in a row become JSON."""
    part = Path(f"{path}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    part.replace(path)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list | tuple) else value


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content``, replacing an older file in one step."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def running_best(values: Sequence[float | None]) -> list[float | None]:
    """The highest value so far at each place; None until there is one.

    Example:
        >>> running_best([None, 0.7, None, 0.6, 0.8])
        [None, 0.7, 0.7, 0.7, 0.8]
    """
    best: float | None = None
    bests = []
    for value in values:
        if value is not None and (best is None or value > best):
            best = value
        bests.append(best)
    return bests


def mean_and_range(curves: Sequence[Curve]) -> tuple[list[tuple[float, float]], list[Span]]:
    """Put runs of the same search together: their mean, and their lowest and highest values.

    Args:
        curves: Stepped curves, in rising order of x; each keeps its value until its next point, and
            its last one for good. Empty ones are left out.

    Returns:
        Points ``(x, mean)`` and spans ``(x, lowest, highest)``, from the first x at which all
        curves have a value.

    Example:
        >>> mean_and_range([[(1, 0.5), (3, 0.7)], [(2, 0.9)]])
        ([(2, 0.7), (3, 0.8)], [(2, 0.5, 0.9), (3, 0.7, 0.9)])
    """
    curves = [curve for curve in curves if curve]
    first = max((curve[0][0] for curve in curves), default=0)
    mean, spans = [], []
    for x in sorted({x for curve in curves for x, _ in curve if x >= first}):
        values = [[y for at, y in curve if at <= x][-1] for curve in curves]
        mean.append((x, fmean(values)))
        spans.append((x, min(values), max(values)))
    return mean, spans


def draw_curves(
    path: str | Path,
    curves: Mapping[str, Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    bands: Mapping[str, Sequence[Span]] | None = None,
) -> None:
    """Draw one stepped curve per name into a PNG file, best last value first in the legend.

    Args:
        path: Of the PNG file.
        curves: Points ``(x, y)`` by name, in rising order of x. A curve with fewer points than the
            longest goes on flat: a search that tried all it could has its last value for good.
        title: Above the figure.
        x_label: Below it.
        y_label: Beside it.
        bands: Spans ``(x, lowest, highest)`` by the name of a curve, shaded in its colour.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    drawn = {name: list(curve) for name, curve in curves.items() if curve}
    last_x = max((curve[-1][0] for curve in drawn.values()), default=1)
    ranked = sorted(drawn.items(), key=lambda item: -item[1][-1][1])
    with _figure(path, title, x_label, y_label) as axes:
        for place, (name, curve) in enumerate(ranked):
            x, y = zip(*_until(last_x, curve), strict=True)
            color = colormaps["tab20"](place % 20)
            axes.plot(
                x,
                y,
                drawstyle="steps-post",
                label=f"{name}  {y[-1]:.3f}",
                # Wider below, where there are few: of equal curves each can be seen.
                linewidth=max(1.8, 4.2 - 1.2 * place) if len(ranked) <= 4 else 1.8,
                color=color,
                linestyle=("-", "--", ":")[place // 20 % 3],
                marker=".",
                markersize=4,
            )
            if bands and bands.get(name):
                x, low, high = zip(*_until(last_x, bands[name]), strict=True)
                axes.fill_between(x, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _until(last_x: float, points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The points, and the values of the last of them at ``last_x``."""
    end = points[-1]
    return [*points, (last_x, *end[1:])] if end[0] < last_x else list(points)


def draw_lines(
    path: str | Path,
    curves: Mapping[str, Curve],
    *,
    levels: Mapping[str, float],
    title: str,
    x_label: str,
    y_label: str,
    log: bool = False,
) -> None:
    """Draw what was measured at some values of x: marked points joined by lines, into a PNG file.

    Args:
        path: Of the PNG file.
        curves: Points ``(x, y)`` by name, in rising order of x.
        levels: Values of y to compare with, drawn as horizontal lines, by name.
        title: Above the figure.
        x_label: Below it.
        y_label: Beside it.
        log: Logarithmic on both axes.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator

    with _figure(path, title, x_label, y_label) as axes:
        for place, (name, curve) in enumerate(curves.items()):
            x, y = zip(*curve, strict=True)
            color = colormaps["tab10"](place % 10)
            axes.plot(x, y, label=name, color=color, marker="os^vD"[place % 5], markersize=5)
        for place, (name, level) in enumerate(levels.items()):
            label = f"{name}  {level:.3f}"
            axes.axhline(level, color="black", linestyle=("-", "--", ":")[place % 3], label=label)
        places = sorted({x for curve in curves.values() for x, _ in curve})
        if log:
            axes.set(xscale="log", yscale="log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(places, [f"{x:,.6g}" for x in places])
        else:
            axes.set_xticks(places)


def _short(height: float) -> str:
    return f"{height:,.0f}" if height >= 100 else f"{height:.3g}"


@contextmanager
def _figure(path: str | Path, title: str, x_label: str, y_label: str) -> Iterator["Axes"]:
    """Axes to draw on, then a PNG file with the legend beside them."""
    # pyplot keeps global state and may look for a display; Figure does neither.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    yield axes
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    part = Path(path).with_suffix(".part.png")
    figure.savefig(part, dpi=130)
    part.replace(path)


def log_curves(folder: str | Path, tag: str, curves: Mapping[str, Curve]) -> None:
    """Write each curve as a TensorBoard run of its own below ``folder``, x as the step.

    The runs are written anew, so that a continued search is not drawn twice.
    """
    import shutil

    from torch.utils.tensorboard import SummaryWriter

    for name, curve in curves.items():
        run = Path(folder) / name
        shutil.rmtree(run, ignore_errors=True)
        with SummaryWriter(str(run)) as writer:
            for x, y in curve:
                writer.add_scalar(tag, y, int(x))


def draw_bars(
    path: str | Path,
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    y_label: str,
    log: bool = False,
) -> None:
    """Draw groups of bars, each bar with its height above it, into a PNG file.

    Args:
        path: Of the PNG file.
        groups: By the name of the group below its bars, heights by the name of the bar. Bars of the
            same name have the same colour; a group may lack some.
        title: Above the figure.
        y_label: Beside it.
        log: Logarithmic heights, for those that differ by orders of magnitude.
    """
    from matplotlib import colormaps

    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / max(len(names), 1)
    with _figure(path, title, "", y_label) as axes:
        for place, name in enumerate(names):
            offset = (place - (len(names) - 1) / 2) * width
            heights = {n: bars[name] for n, bars in enumerate(groups.values()) if name in bars}
            drawn = axes.bar(
                [n + offset for n in heights],
                list(heights.values()),
                width,
                label=name,
                color=colormaps["tab10"](place % 10),
            )
            # Upright, the numbers of narrow bars do not overlap.
            rotation = 90 if len(names) * len(groups) > 12 else 0
            axes.bar_label(drawn, fmt=_short, fontsize=7, padding=2, rotation=rotation)
        if log:
            axes.set_yscale("log")
        axes.margins(y=0.1)
        axes.set_xticks(range(len(groups)), list(groups), fontsize=8)

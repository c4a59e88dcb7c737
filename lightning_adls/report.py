"""Results are rows: the same rows become a CSV file, a figure and TensorBoard curves."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]


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


def draw_curves(
    path: str | Path, curves: Mapping[str, Curve], *, title: str, x_label: str, y_label: str
) -> None:
    """Draw one stepped curve per name into a PNG file, best last value first in the legend.

    Args:
        path: Of the PNG file.
        curves: Points ``(x, y)`` by name, in rising order of x. A curve with fewer points than the
            longest goes on flat: a search that tried all it could has its last value for good.
        title: Above the figure.
        x_label: Below it.
        y_label: Beside it.
    """
    # pyplot keeps global state and may look for a display; Figure does neither.
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = {name: list(curve) for name, curve in curves.items() if curve}
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    last_x = max((curve[-1][0] for curve in drawn.values()), default=1)
    ranked = sorted(drawn.items(), key=lambda item: -item[1][-1][1])
    for place, (name, curve) in enumerate(ranked):
        if curve[-1][0] < last_x:
            curve = [*curve, (last_x, curve[-1][1])]
        x, y = zip(*curve, strict=True)
        axes.plot(
            x,
            y,
            drawstyle="steps-post",
            label=f"{name}  {y[-1]:.3f}",
            linewidth=1.8,
            color=colormaps["tab20"](place % 20),
            linestyle=("-", "--", ":")[place // 20 % 3],
            marker=".",
            markersize=4,
        )
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if drawn:
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

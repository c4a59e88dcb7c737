"""Results are rows: the same rows become a CSV file, figures and TensorBoard curves."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

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
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text, replacing an older file in one step: nobody reads half of it."""
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def running_best(
    values: Sequence[float | None], mode: Literal["max", "min"] = "max"
) -> list[float | None]:
    """The highest value so far at each place, or the lowest; None until there is one.

    Example:
        >>> running_best([None, 0.7, None, 0.6, 0.8])
        [None, 0.7, 0.7, 0.7, 0.8]
        >>> running_best([0.7, 0.6, 0.8], "min")
        [0.7, 0.6, 0.6]
    """
    better = max if mode == "max" else min
    best: float | None = None
    bests = []
    for value in values:
        if value is not None:
            best = value if best is None else better(best, value)
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

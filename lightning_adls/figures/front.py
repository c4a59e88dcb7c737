"""Accuracy over cost, and the Pareto front: what nothing else beats in both."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_adls.figures.canvas import Levels, cut, figure, levels, plain_log, robust_bottom
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import BLACK, GREY, styles


class Candidate(NamedTuple):
    """A model: what it belongs to, its cost and its accuracy, with the standard error if known."""

    group: str
    cost: float
    accuracy: float
    error: float | None = None


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats: as cheap and as accurate, and better in one; cheapest first.

    Example:
        >>> found = pareto_front(
        ...     [Candidate("a", 8, 0.9), Candidate("b", 4, 0.8), Candidate("c", 6, 0.7)]
        ... )
        >>> [candidate.group for candidate in found]
        ['b', 'a']
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def draw_front(
    path: str | Path,
    candidates: Sequence[Candidate],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    compare: Levels | None = None,
    log: bool = False,
    references: Sequence[Candidate] = (),
) -> Picture:
    """Draw all models, and the front as a staircase through those on it, with error bars.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        candidates: The models; those of a group have one colour and marker.
        title: Above the figure.
        x_label: The cost.
        y_label: The accuracy.
        subtitle: Below the title.
        compare: Accuracies to compare with, by name; dashed, with a band of one standard error.
        log: Logarithmic cost.
        references: Models to compare with, by their groups' names; crosses, of no front.
    """
    from matplotlib.ticker import MaxNLocator

    looks = styles(candidate.group for candidate in candidates)
    front = pareto_front(candidates)
    bottom = robust_bottom([c.accuracy for c in (*candidates, *references)])
    with figure(path, title, subtitle) as (axes,):
        for group, look in looks.items():
            own = [c for c in candidates if c.group == group]
            axes.scatter(
                [c.cost for c in own],
                [c.accuracy for c in own],
                label=group,
                color=look.color,
                marker=look.marker,
                s=30,
                alpha=0.65,
                linewidths=0,
                zorder=3,
            )
        if front:
            # What costs more than the last of them is as good as it at best.
            dearest = max(candidate.cost for candidate in candidates)
            axes.plot(
                [*(c.cost for c in front), dearest],
                [*(c.accuracy for c in front), front[-1].accuracy],
                drawstyle="steps-post",
                color=BLACK,
                linewidth=1.3,
                label="Pareto front",
                zorder=2,
            )
            axes.errorbar(
                [c.cost for c in front],
                [c.accuracy for c in front],
                yerr=[c.error or 0 for c in front],
                fmt="o",
                markersize=9,
                markerfacecolor="none",
                color=BLACK,
                elinewidth=0.8,
                capsize=2,
                zorder=4,
            )
        if references:
            axes.errorbar(
                [r.cost for r in references],
                [r.accuracy for r in references],
                yerr=[r.error or 0 for r in references],
                fmt="x",
                color=GREY,
                elinewidth=0.8,
                label="the same for all layers",
                zorder=3,
            )
        for reference in references:
            axes.annotate(
                reference.group,
                (reference.cost, reference.accuracy),
                xytext=(4, -8),
                textcoords="offset points",
                fontsize="x-small",
                color=GREY,
            )
        points = {g: [(c.cost, c.accuracy) for c in candidates if c.group == g] for g in looks}
        if log:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 4, 8, 10]))
        cut(axes, bottom, points, {group: look.color for group, look in looks.items()})
        levels(axes, compare or {}, bottom)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.3)
    return Picture(Path(path).with_suffix(".png"))

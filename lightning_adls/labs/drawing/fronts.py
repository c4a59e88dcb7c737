"""The figures of accuracy over a cost that searches share: the front, and what it dominates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_adls.figures import Candidate, Levels, Stairs, draw_front, draw_steps
from lightning_adls.labs.drawing.drawn import OF_THE_FRONT, Figure, chance
from lightning_adls.labs.drawing.searches import studies
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row

# By cost: in a title, and with its unit.
LABELS = {
    "bits_per_weight": ("bits per weight", "bits per weight"),
    "size_mb": ("size", "size in MB"),
    "bit_operations": ("bit operations", "bit operations per sample"),
    "parameters": ("parameters", "parameters"),
}
# These span orders of magnitude.
_LOGARITHMIC = {"size_mb", "bit_operations", "parameters"}


def front_cost(config: Mapping[str, Any], default: str) -> str:
    """The cost of a run's fronts: the first that it minimises, if it minimises any."""
    minimised: Sequence[str] = config.get("minimise") or [default]
    return minimised[0]


def front_figure(run: StoredRun, cost: str, group: Callable[[Row], str], compare: Levels) -> Figure:
    """Every complete trial over its cost, the front, and the uniform recipes of the summary.

    Args:
        run: The run.
        cost: Column of the cost.
        group: What a trial belongs to: its colour and marker.
        compare: Levels of accuracy, such as that of full precision.
    """
    complete = [r for r in run.rows if r["state"] == "complete" and r.get(cost) is not None]
    uniform: dict[str, Row] = run.summary.get("uniform", {})
    words, label = LABELS[cost]
    path = run.folder / "front.png"
    draw_front(
        path,
        [
            Candidate(group(r), r[cost], r["val_accuracy"], r["val_standard_error"])
            for r in complete
        ],
        title=f"Validation accuracy over {words}",
        x_label=label,
        y_label="validation accuracy",
        subtitle=run.subtitle,
        compare={**compare, **chance(run)},
        log=cost in _LOGARITHMIC,
        references=[
            Candidate(name, r[cost], r["val_accuracy"], r["val_standard_error"])
            for name, r in uniform.items()
            if r.get(cost) is not None
        ],
    )
    crosses = " Crosses are recipes that give all layers the same formats." if uniform else ""
    return Figure(path, f"Every complete trial, {OF_THE_FRONT}{crosses}")


def hypervolume_figures(run: StoredRun, cost: str) -> list[Figure]:
    """What the front of each study dominates, over its trials; none if rows do not say it."""
    curves = {
        name: Stairs([(t["trial"], v) for t in trials if (v := t["hypervolume"]) is not None])
        for name, trials in studies(run.rows).items()
        if "hypervolume" in trials[0]
    }
    curves = {name: curve for name, curve in curves.items() if curve.points}
    if not curves:
        return []
    words, _ = LABELS[cost]
    path = run.folder / "hypervolume.png"
    draw_steps(
        path,
        curves,
        title=f"What the Pareto front dominates: validation accuracy and {words}",
        x_label="number of trials",
        y_label="hypervolume",
        subtitle=run.subtitle,
    )
    most, least = run.summary.get("hypervolume_reference", (None, None))
    point = "" if most is None else f" (up to {most:.4g}, and down to an accuracy of {least:.3g})"
    caption = (
        f"Area of validation accuracy and {words} that the trials so far dominate{point}, a curve "
        "for each study: higher is better."
    )
    return [Figure(path, caption)]

"""Lab 3: the running best of the studies, accuracy over bits, formats, what mattered."""

from collections.abc import Collection, Sequence
from math import inf

from lightning_adls.figures import Levels, Stairs, draw_format_map, draw_heat_map, draw_steps
from lightning_adls.figures.maps import short_layer
from lightning_adls.labs.drawing.drawn import Figure, chance, confusions, level
from lightning_adls.labs.drawing.fronts import front_cost, front_figure, hypervolume_figures
from lightning_adls.labs.drawing.lab1 import by_tensor
from lightning_adls.labs.drawing.searches import (
    best,
    curve,
    draw_importances_of,
    error,
    monitored,
    on_which_rows,
    studies,
)
from lightning_adls.labs.stored import StoredRun
from lightning_adls.labs.strategies import SCORES, SEARCHES, searches_of
from lightning_adls.report import Row

MOST_MATRICES = 4
MOST_IMPORTANCES = 6
MOST_FORMATS = 40
_START = "float32, the start"


def draw(run: StoredRun) -> list[Figure]:
    """Every figure that the trials so far give."""
    found = studies(run.rows)
    figures = [*draw_running_best(run), *_strategies(run, found), *_sensitivities(run)]
    winners = winners_of(found)
    if winners:
        cost = front_cost(run.config, "bits_per_weight")
        figures.append(front_figure(run, cost, lambda row: str(row["study"]), _start(run)))
        figures += [*hypervolume_figures(run, cost), *_formats(run, winners[0])]
    figures += _importances(run, found)
    steps = {row["study"]: f"{row['study']}/{row['trial']}" for row in winners[:MOST_MATRICES]}
    return [*figures, *confusions(run, steps)]


def draw_running_best(run: StoredRun) -> list[Figure]:
    """The figures that change while the search goes on."""
    found = studies(run.rows)
    return [_running_best(run, file, found) for file in run.config["figures"]]


def winners_of(found: dict[str, list[Row]]) -> list[Row]:
    """The best trial of each study, the best study first."""
    winners = [winner for trials in found.values() if (winner := best(trials)) is not None]
    return sorted(winners, key=lambda row: -row["val_accuracy"])


def _running_best(run: StoredRun, file: str, found: dict[str, list[Row]]) -> Figure:
    value, mode = monitored(run)
    curves = {}
    for name in _begun(run.config["figures"][file], found):
        trials = found.get(name, [])
        curves[name] = Stairs(curve(trials), error=error(trials))
    path = run.folder / f"{file}.png"
    draw_steps(
        path,
        curves,
        title=f"Mixed-precision search: best {value} so far",
        x_label="number of trials",
        y_label=value,
        subtitle=run.subtitle,
        compare={**_start_of_trials(run), **chance(run)} if mode == "max" else {},
        mode=mode,
    )
    bars = "; bars at the end are the binomial standard error of the last value"
    caption = (
        f"Best {value} so far over the trials, a curve for each study"
        f"{bars if mode == 'max' else ''}.{on_which_rows(run)}"
    )
    return Figure(path, caption)


def _begun(studies: Sequence[str], found: Collection[str]) -> list[str]:
    """The searches of studies, by any strategy; a study without one as it is called."""
    names = []
    for study in studies:
        searches = [name for each in SEARCHES for name in searches_of(study, each)]
        names += [name for name in searches if name in found] or [study]
    return names


def _strategies(run: StoredRun, found: dict[str, list[Row]]) -> list[Figure]:
    """The best so far over the time that it took, where strategies can be compared."""
    curves: dict[str, Stairs] = {}
    for study in run.config["studies"]:
        names = {each: searches_of(study, each) for each in SEARCHES}
        rows = {each: [r for name in names[each] for r in found.get(name, [])] for each in names}
        begun = {strategy: trials for strategy, trials in rows.items() if trials}
        if len(begun) > 1:
            curves |= {f"{study}, {each}": _over_seconds(trials) for each, trials in begun.items()}
    curves = {name: curve for name, curve in curves.items() if curve.points}
    if not curves:
        return []
    path = run.folder / "strategies.png"
    draw_steps(
        path,
        curves,
        title="Mixed-precision search: best validation accuracy over time",
        x_label="seconds of computing, scores and shared training included",
        y_label="validation accuracy",
        subtitle=run.subtitle,
        compare={**_start(run), **chance(run)},
    )
    caption = (
        "Best validation accuracy so far over the seconds that the trials took one after the "
        "other, for studies of several strategies; what a strategy needs before its first trial "
        "is counted, the float32 start is not."
    )
    return [Figure(path, caption)]


def _sensitivities(run: StoredRun) -> list[Figure]:
    """What rounding each weight was expected to cost, where plans were made."""
    path = run.folder / SCORES
    if not path.is_file():
        return []
    from lightning_adls.planning import Scores  # needs torch, which other runs do not

    by_layer = Scores.load(path).by_format("weight")
    names = {text.partition("(")[0]: None for row in by_layer.values() for text in row}
    figures = []
    for name in names:
        rows = {
            layer.removeprefix("model."): {
                text: each for text, each in row.items() if text.partition("(")[0] == name
            }
            for layer, row in by_layer.items()
        }
        if 1 < len(next(iter(rows.values()))) <= MOST_FORMATS:
            file = run.folder / f"sensitivity_{name}.png"
            title = f"What rounding a weight to {name} is expected to cost"
            label = "expected loss, nats"
            draw_heat_map(file, rows, title=title, subtitle=run.subtitle, label=label)
            caption = (
                f"First-order scores of weights in {name}: half the mean square of the effect of "
                "their rounding error on the loss of a training text."
            )
            figures.append(Figure(file, caption))
    return figures


def _over_seconds(trials: Sequence[Row]) -> Stairs:
    """The running best of a strategy, and the error of its last value."""
    spent, reached = trials[0]["seconds_before"], -inf
    points, error = [], None
    for trial in trials:
        spent += trial["seconds"]
        if trial["state"] == "complete" and trial["val_accuracy"] > reached:
            reached, error = trial["val_accuracy"], trial["val_standard_error"]
        if reached > -inf:
            points.append((spent, reached))
    return Stairs(points, error=error)


def _start(run: StoredRun) -> Levels:
    """The level of the model that all trials start from, once it is in the summary."""
    start = run.summary.get("start")
    return {_START: level(start)} if start else {}


def _start_of_trials(run: StoredRun) -> Levels:
    """The same on the rows that trials are compared on."""
    start = run.summary.get("start", {})
    if "value" not in start:  # as in runs of earlier versions
        return _start(run)
    return {_START: (start["value"], start["value_standard_error"])}


def _formats(run: StoredRun, winner: Row) -> list[Figure]:
    path = run.folder / "formats.png"
    draw_format_map(
        path,
        {layer: by_tensor(spec) for layer, spec in winner["recipe"].items()},
        title=f"Number formats of the best model: {winner['study']}, trial {winner['trial']}",
        subtitle=run.subtitle,
    )
    caption = f"The formats that trial {winner['trial']} of {winner['study']} chose for each layer."
    return [Figure(path, caption)]


def _importances(run: StoredRun, found: dict[str, list[Row]]) -> list[Figure]:
    ranked = [row["study"] for row in winners_of(found)]
    groups = {
        name: [
            (choices_of(row["recipe"]), row["val_accuracy"])
            for row in found[name]
            if row["state"] == "complete"
        ]
        for name in ranked
    }
    enough = {name: trials for name, trials in groups.items() if len(trials) > 1}
    return draw_importances_of(run, dict(list(enough.items())[:MOST_IMPORTANCES]))


def choices_of(recipe: Row) -> dict[str, str]:
    """What a trial chose, by layer and tensor."""
    return {
        f"{short_layer(layer)} {tensor}": str(text)
        for layer, spec in recipe.items()
        for tensor, text in by_tensor(spec).items()
    }

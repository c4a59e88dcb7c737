"""Lab 2: the samplers, compression-aware search, accuracy over size, what mattered."""

from collections.abc import Mapping, Sequence

from lightning_adls.figures import Stairs, draw_steps
from lightning_adls.labs.drawing.drawn import Figure, chance, confusions
from lightning_adls.labs.drawing.fronts import front_cost, front_figure, hypervolume_figures
from lightning_adls.labs.drawing.searches import (
    curve,
    draw_importances_of,
    error,
    on_which_rows,
    studies,
)
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row, mean_and_range
from lightning_adls.significance import standard_error_of_mean

# The searches, and their names in figures.
SEARCHES = {
    "plain": "no compression",
    "aware": "compression-aware",
    "aware_retrained": "compression-aware, trained again",
}
MODELS = {
    "plain": "no compression",
    "compressed": "compressed afterwards",
    "aware": "compression-aware",
    "aware_retrained": "aware, trained again",
}
# By seed, the trials of one search.
BySeed = Mapping[int, Sequence[Row]]


def draw(run: StoredRun) -> list[Figure]:
    """Every figure that the trials so far give."""
    found = [draw_samplers(run)]
    if any(row["search"] != "plain" for row in run.rows):
        found.append(_aware(run))
    cost = front_cost(run.config, "size_mb")
    found.append(front_figure(run, cost, lambda row: SEARCHES[row["search"]], {}))
    found += [*hypervolume_figures(run, cost), *_importances(run)]
    return [*found, *confusions(run, tested_steps(run))]


def tested_steps(run: StoredRun) -> dict[str, str]:
    """By the name of a model in figures, the step that tested it."""
    return {
        MODELS[
            name
        ]: f"{'compressed/' if name == 'compressed' else ''}{row['study']}/{row['trial']}"
        for name, row in run.results.items()
    }


def by_sampler(run: StoredRun) -> Mapping[str, BySeed]:
    """The trials of the searches without compression."""
    found: dict[str, dict[int, Sequence[Row]]] = {}
    for trials in studies(run.rows).values():
        if (first := trials[0])["search"] == "plain":
            found.setdefault(first["sampler"], {})[first["seed"]] = trials
    return found


def draw_samplers(run: StoredRun) -> Figure:
    """The running best of the samplers, which task 1 compares."""
    return _draw(run, "samplers", "Samplers on the same space", by_sampler(run))


def _aware(run: StoredRun) -> Figure:
    aware = {row["sampler"] for row in run.rows if row["search"] != "plain"}
    (sampler,) = list(aware)[:1]
    found: dict[str, dict[int, Sequence[Row]]] = {}
    for trials in studies(run.rows).values():
        if (first := trials[0])["sampler"] == sampler:
            found.setdefault(SEARCHES[first["search"]], {})[first["seed"]] = trials
    title = f"Compression-aware search with the sampler {sampler}"
    return _draw(run, "compression_aware", title, found)


def _draw(run: StoredRun, file: str, title: str, found: Mapping[str, BySeed]) -> Figure:
    seeds = max(len(each) for each in found.values())
    curves = {}
    for name, each in found.items():
        mean, spans = mean_and_range([curve(trials) for trials in each.values()])
        curves[name] = Stairs(mean, spans if seeds > 1 else (), _error([*each.values()]))
    path = run.folder / f"{file}.png"
    draw_steps(
        path,
        curves,
        title=title,
        x_label="number of trials",
        y_label="best validation accuracy so far",
        subtitle=run.subtitle,
        compare=chance(run),
    )
    rows = on_which_rows(run)
    spread = (
        f"the mean, with the range of {seeds} seeds, and the standard error of the last mean"
        if seeds > 1
        else "bars are the binomial standard error of the last value"
    )
    return Figure(
        path, f"{title}: best validation accuracy so far over the trials; {spread}.{rows}"
    )


def _error(seeds: Sequence[Sequence[Row]]) -> float | None:
    """Standard error of the mean of the best of each seed; of a single one, that of its rows."""
    reached = [found[-1][1] for trials in seeds if (found := curve(trials))]
    return standard_error_of_mean(reached) if len(reached) > 1 else error(seeds[0])


def _importances(run: StoredRun) -> list[Figure]:
    groups: dict[str, list[tuple[dict[str, str], float]]] = {}
    for row in run.rows:
        if row["state"] == "complete":
            name = SEARCHES[row["search"]]
            groups.setdefault(name, []).append((_choices(row), row["val_accuracy"]))
    return draw_importances_of(run, groups)


def _choices(row: Row) -> dict[str, str]:
    architecture = dict(row["architecture"])
    dropped = architecture.pop("identities", [])
    choices = {
        key.removeprefix("num_").replace("_", " "): str(value)
        for key, value in architecture.items()
    }
    return {**choices, "number of identities": str(len(dropped))}

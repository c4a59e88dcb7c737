"""Lab 2: the samplers against each other, and what survives compression."""

from lightning_adls.labs.drawing.lab2 import MODELS, SEARCHES, by_sampler, tested_steps
from lightning_adls.labs.drawing.searches import best, studies
from lightning_adls.labs.lab_report.comparing import Model, compare, sentence, warn_of_chance
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    in_percent,
    say_best,
    with_errors,
)
from lightning_adls.labs.lab_report.searches import ends_of, spread
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row
from lightning_adls.significance import unpaired

_SAMPLERS = {
    "name": ("sampler", ""),
    "val": ("best val accuracy", ""),
    "trials_to_best": ("trials to reach it", ".3g"),
}
_MODELS = {
    "name": ("model", ""),
    "made": ("architecture", ""),
    "before": ("val accuracy before compression", ""),
    **ACCURACY_COLUMNS,
    "parameters": ("parameters", ",d"),
    "size_mb": ("MB", ".3f"),
    "bits_per_weight": ("bits per weight", ".2f"),
    "sparsity": ("zeros", ".2f"),
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 2."""
    ranked = []
    for name, row in run.summary.get("samplers", {}).items():
        seeds = [float(winner["val_accuracy"]) for winner in _winners(run, name)]
        value = spread(seeds) if len(seeds) > 1 else in_percent(row, "mean_best")
        ranked.append({**row, "name": name, "val": value})
    models = [
        {
            **with_errors(row),
            "name": MODELS[name],
            "made": words_of(row["architecture"]),
            "before": in_percent(row, "val_accuracy_before_compression"),
        }
        for name, row in run.results.items()
    ]
    found = Content(
        [
            ReportTable("Task 1: samplers", _SAMPLERS, ranked),
            ReportTable("Task 2: models judged after compression", _MODELS, models),
        ]
    )
    winners = [winner for trials in studies(run.rows).values() if (winner := best(trials))]
    warning = warn_of_chance("The best of every search", winners, len(run.classes))
    found.observe(*warning, main=True)
    _about_samplers(run, found)
    found.observe(*ends_of(_named(run)))
    say_best(found, run.summary.get("best", {}), run.results)
    _about_models(run, found)
    return found


def _named(run: StoredRun) -> dict[str, list[Row]]:
    """The trials of each study by its name in words."""
    several = len({row["seed"] for row in run.rows}) > 1
    found = {}
    for trials in studies(run.rows).values():
        first = trials[0]
        seed = f", seed {first['seed']}" if several else ""
        found[f"{SEARCHES[first['search']]}, {first['sampler']}{seed}"] = trials
    return found


def _winners(run: StoredRun, sampler: str) -> list[Row]:
    """The best trial of each seed, of the seeds that have one."""
    found = map(best, by_sampler(run).get(sampler, {}).values())
    return [winner for winner in found if winner is not None]


def words_of(architecture: Row) -> str:
    """An architecture as one says it.

    Example:
        >>> words_of({"num_hidden_layers": 2, "hidden_size": 32, "identities": []})
        'hidden layers 2, hidden size 32'
    """
    sizes = {
        key.removeprefix("num_").replace("_", " "): value
        for key, value in architecture.items()
        if key != "identities"
    }
    if dropped := architecture.get("identities"):
        sizes["layers left out"] = len(dropped)
    return ", ".join(f"{key} {value}" for key, value in sizes.items())


def _about_samplers(run: StoredRun, found: Content) -> None:
    bests: dict[str, list[float]] = {}
    for sampler, by_seed in by_sampler(run).items():
        values = [float(winner["val_accuracy"]) for winner in _winners(run, sampler)]
        if len(values) == len(by_seed):
            bests[sampler] = values
    ranked = sorted(bests, key=lambda name: -sum(bests[name]) / len(bests[name]))
    if len(ranked) < 2:
        return
    first, second = ranked[:2]
    if len(bests[first]) > 1:
        apart = min(bests[first]) > max(bests[second])
        found.observe(
            f"{first} is first, {spread(bests[first])}, then {second}, {spread(bests[second])}: "
            + ("their ranges are apart." if apart else "their ranges overlap, which is no winner."),
            main=True,
        )
    else:
        difference = unpaired(bests[first][0], bests[second][0], run.summary["rows"]["val"])
        found.observe(sentence(f"The best of {first}", f"that of {second}", difference), main=True)


def _about_models(run: StoredRun, found: Content) -> None:
    steps = tested_steps(run)
    models = {
        name: Model(MODELS[name], row, steps[MODELS[name]]) for name, row in run.results.items()
    }
    for first, second in (
        ("compressed", "plain"),
        ("aware", "compressed"),
        ("aware_retrained", "aware"),
        ("aware_retrained", "plain"),
    ):
        if first in models and second in models:
            one, two = models[first], models[second]
            if None not in (one.row["test_standard_error"], two.row["test_standard_error"]):
                difference = compare(run, one, two, "test")
                name = f"The model “{one.name}”"
                text = sentence(name, f"“{two.name}”", difference, "on the test rows")
                found.observe(text, main=True)
    for name, row in run.results.items():
        test = with_errors(row)["test"]
        found.takeaways.append(
            f"{MODELS[name]} ({words_of(row['architecture'])}): "
            f"{f'{test} on test' if test else 'not tested'}, {row['size_mb']:.3g} MB, "
            f"{row['bits_per_weight']:.3g} bits per weight."
        )

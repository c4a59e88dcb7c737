"""Lab 2: the samplers against each other, and what survives compression."""

from lightning_adls.labs.drawing.lab2 import MODELS, by_sampler, tested_steps
from lightning_adls.labs.drawing.searches import best, studies
from lightning_adls.labs.lab_report.comparing import Model, compare, sentence, warn_of_chance
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    with_errors,
)
from lightning_adls.labs.lab_report.searches import ends_of, spread
from lightning_adls.labs.stored import StoredRun
from lightning_adls.significance import unpaired

_SAMPLERS = {
    "name": ("sampler", ""),
    "mean_best": ("mean of the best val accuracy", ".4f"),
    "trials_to_best": ("trials to reach it", ".1f"),
}
_MODELS = {
    "name": ("model", ""),
    "val_accuracy_before_compression": ("before compression", ".4f"),
    **ACCURACY_COLUMNS,
    "parameters": ("parameters", ",d"),
    "size_mb": ("MB", ".3f"),
    "bits_per_weight": ("bits per weight", ".2f"),
    "sparsity": ("zeros", ".2f"),
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 2."""
    ranking = run.summary.get("samplers", {})
    ranked = [{"name": name, **row} for name, row in ranking.items()]
    models = [{"name": MODELS[name], **with_errors(row)} for name, row in run.results.items()]
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
    found.observe(*ends_of(studies(run.rows)))
    _about_models(run, found)
    return found


def _about_samplers(run: StoredRun, found: Content) -> None:
    bests: dict[str, list[float]] = {}
    for sampler, by_seed in by_sampler(run).items():
        winners = [best(trials) for trials in by_seed.values()]
        values = [float(winner["val_accuracy"]) for winner in winners if winner is not None]
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
        found.takeaways.append(
            f"{MODELS[name]}: {with_errors(row)['test'] or 'not tested'}, {row['size_mb']:.3g} MB, "
            f"{row['bits_per_weight']:.3g} bits per weight."
        )

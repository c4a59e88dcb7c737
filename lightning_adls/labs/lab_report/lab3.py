"""Lab 3: the studies against the best of them and against full precision."""

from lightning_adls.labs.drawing.lab3 import winners_of
from lightning_adls.labs.drawing.searches import studies
from lightning_adls.labs.lab_report.comparing import (
    Model,
    at_chance,
    compare,
    in_words,
    measured,
    points,
    sentence,
    test_of,
    warn_of_chance,
)
from lightning_adls.labs.lab_report.content import (
    ACCURACY_COLUMNS,
    Content,
    ReportTable,
    say_best,
    with_errors,
)
from lightning_adls.labs.lab_report.searches import course
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row

_COLUMNS = {
    "study": ("study", ""),
    **ACCURACY_COLUMNS,
    "bits_per_weight": ("bits per weight", ".2f"),
    "size_mb": ("MB", ".2f"),
    "trial": ("best at trial", "d"),
    "trials": ("trials", "d"),
    "at_chance": ("at chance", "d"),
    "flips": ("answers other than the start's", "d"),
    "seconds": ("seconds", ".0f"),
}


def describe(run: StoredRun) -> Content:
    """Tables and statements of a run of Lab 3."""
    found, by_study = Content(), studies(run.rows)
    winners = winners_of(by_study)
    rows = []
    for winner in winners:
        trials = by_study[winner["study"]]
        complete = [trial for trial in trials if trial["state"] == "complete"]
        guessing = sum(at_chance(trial, len(run.classes)) for trial in complete)
        counts = {"trials": len(trials), "at_chance": guessing}
        seconds = sum(trial["seconds"] or 0 for trial in trials)
        flips = run.results.get(winner["study"], {}).get("flips")
        rows.append({**with_errors(winner), **counts, "flips": flips, "seconds": seconds})
    found.tables.append(ReportTable("Best of each study", _COLUMNS, rows))
    if not winners:
        return found
    warning = warn_of_chance("The best of every study", winners, len(run.classes))
    found.observe(*warning, main=True)
    if start := run.summary.get("start"):
        first, base = _model(winners[0]), Model("the float32 start", start, "start")
        difference = compare(run, first, base)
        found.observe(sentence(first.name, base.name, difference, "on the validation rows"))
    tested = all(winner["test_standard_error"] is not None for winner in winners)
    split = "test" if tested else "val"
    where = "on the test rows" if split == "test" else "on the validation rows"
    say_best(found, run.summary.get("best", {}), run.results)
    _about_best(run, found, winners, split, where)
    _about_full(run, found, winners, split, where)
    for study, trials in by_study.items():
        found.observe(course(study, trials))
    for row in rows:
        if row["at_chance"]:
            found.observe(
                f"{row['study']}: {row['at_chance']} of {row['trials']} trials are at chance."
            )
    for winner in winners[:3]:
        shown = with_errors(winner)
        test = f", {shown['test']} on test" if shown["test"] else ""
        found.takeaways.append(
            f"{winner['study']}: {shown['val']} on validation{test}, "
            f"{winner['bits_per_weight']:.3g} bits per weight, {winner['size_mb']:.2f} MB."
        )
    return found


def _model(row: Row) -> Model:
    return Model(row["study"], row, f"{row['study']}/{row['trial']}")


def _about_best(run: StoredRun, found: Content, winners: list[Row], split: str, where: str) -> None:
    """Which studies are as good as the best, which are not."""
    first, *others = (_model(winner) for winner in winners)
    compared = [(other.name, compare(run, first, other, split)) for other in others]
    alike = [name for name, difference in compared if not difference.real]
    if alike:
        found.observe(
            f"{first.name}, the best on validation, is indistinguishable {where} from "
            f"{in_words(alike)}.",
            main=True,
        )
    for name, difference in compared:
        if difference.real:
            side = "above" if difference.value > 0 else "below"
            found.observe(
                f"{first.name} is {points(difference)} {side} {name} {where} {test_of(difference)}."
            )


def _about_full(run: StoredRun, found: Content, winners: list[Row], split: str, where: str) -> None:
    """Which study loses nothing against full precision, and with how few bits."""
    full = next((winner for winner in winners if winner["bits_per_weight"] == 32), None)
    if full is None:
        return
    lossless = []
    for winner in winners:
        if winner is not full:
            difference = compare(run, _model(winner), _model(full), split)
            if not difference.real or difference.value > 0:
                lossless.append((winner["bits_per_weight"], winner["study"], difference))
    if not lossless:
        found.observe(f"Every study is below full precision {where}.", main=True)
        return
    bits, study, difference = min(lossless, key=lambda one: one[:2])
    found.observe(
        f"Of the {len(lossless)} studies whose loss against full precision is not shown {where}, "
        f"{study} needs the fewest bits, {bits:.3g} per weight {measured(difference)}.",
        main=True,
    )

"""Two models of a run compared, and said in a sentence."""

from collections.abc import Iterable
from typing import NamedTuple

from lightning_adls.labs.classified import Answers
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row
from lightning_adls.significance import Difference, paired, unpaired


class Model(NamedTuple):
    """A model in a sentence: its name, its row, and the step that its predictions are of."""

    name: str
    row: Row
    step: str


def compare(run: StoredRun, first: Model, second: Model, split: str = "val") -> Difference:
    """The accuracy of the first model minus that of the second.

    Row by row, where what both said of the same rows is stored; else by their accuracies alone.
    """
    return compare_runs(run, first, run, second, split)


def compare_runs(
    run: StoredRun, first: Model, other: StoredRun, second: Model, split: str = "val"
) -> Difference:
    """The same for models of two runs; row by row, if both have the same rows and labels."""
    one, two = run.answers(split, first.step), other.answers(split, second.step)
    if one and two and _labels(one) == _labels(two):
        right = [[a.label == a.predicted for a in answers.values()] for answers in (one, two)]
        return paired(right[0], right[1])
    accuracies = [model.row[f"{split}_accuracy"] for model in (first, second)]
    rows = [each.count(split) for each in (run, other)]
    return unpaired(accuracies[0], accuracies[1], rows[0], rows[1])


def _labels(answers: Answers) -> list[tuple[int, int]]:
    return [(row, answer.label) for row, answer in answers.items()]


def at_chance(row: Row, classes: int) -> bool:
    """Whether an accuracy is within two standard errors of guessing, or below it."""
    return bool(row["val_accuracy"] - 2 * (row["val_standard_error"] or 0) <= 1 / classes)


def warn_of_chance(what: str, rows: Iterable[Row], classes: int) -> list[str]:
    """A sentence, if nothing of it is better than guessing.

    Example:
        >>> row = {"val_accuracy": 0.51, "val_standard_error": 0.02}
        >>> warn_of_chance("The start", [row], 2)
        ['The start is no better than guessing (50.0 %): what is compared below says nothing.']
    """
    if not all(at_chance(row, classes) for row in rows):
        return []
    guess = f"{100 / classes:.1f} %"
    return [f"{what} is no better than guessing ({guess}): what is compared below says nothing."]


def points(difference: Difference) -> str:
    """Its size in percentage points, for a sentence that says which is above.

    Example:
        >>> points(Difference(-0.085, 0.011, 0.0, paired=True))
        '8.5 ± 1.1 points'
    """
    return f"{100 * abs(difference.value):.1f} ± {100 * difference.standard_error:.1f} points"


def measured(difference: Difference) -> str:
    """Its size with its sign and its test, without a verdict.

    Example:
        >>> measured(Difference(-0.001, 0.002, 1.0, paired=True))
        '(-0.1 ± 0.2 points; paired, p = 1.00)'
    """
    sign = "-" if difference.value < 0 else "+"
    return f"({sign}{points(difference)}; {test_of(difference)[1:]}"


def test_of(difference: Difference) -> str:
    """Its test, in brackets.

    Example:
        >>> test_of(Difference(0.1, 0.1, 0.3174, paired=False))
        '(unpaired, p = 0.32)'
    """
    p = difference.p_value
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
    return f"({'paired' if difference.paired else 'unpaired'}, {shown})"


def sentence(first: str, second: str, difference: Difference, where: str = "") -> str:
    """What the difference says of both.

    Example:
        >>> sentence("QAT at 4 bits", "PTQ", Difference(0.085, 0.011, 0.0, paired=True))
        'QAT at 4 bits is 8.5 ± 1.1 points above PTQ (paired, p < 0.001).'
        >>> sentence("QAT at 8 bits", "PTQ", Difference(0.001, 0.01, 0.9, paired=True), "on test")
        'QAT at 8 bits and PTQ are indistinguishable on test: 0.1 ± 1.0 points (paired, p = 0.90).'
    """
    where = f" {where}" if where else ""
    if difference.real:
        side = "above" if difference.value > 0 else "below"
        return f"{first} is {points(difference)} {side} {second}{where} {test_of(difference)}."
    # That no difference is shown does not mean that there is none: how large it may be.
    within = ""
    if difference.interval is not None:
        low, high = (100 * bound for bound in difference.interval)
        within = f"; with 95 % confidence {low:+.1f} to {high:+.1f} points"
    return (
        f"{first} and {second} are indistinguishable{where}: {points(difference)} "
        f"{test_of(difference)}{within}."
    )


def from_where_on(values: Iterable[tuple[float, bool]]) -> float | None:
    """The lowest value from which on all are good; None if the highest is not.

    Example:
        >>> from_where_on([(4, False), (6, True), (8, False), (12, True), (16, True)])
        12
    """
    found = None
    for value, good in sorted(values, reverse=True):
        if not good:
            break
        found = value
    return found


def in_words(items: Iterable[str]) -> str:
    """A list as it stands in a sentence.

    Example:
        >>> in_words(["a", "b", "c"])
        'a, b and c'
    """
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last

"""The table and the figure of low_bits.py, made of its records alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from low_bits_jobs import Job
from low_bits_records import Records
from low_bits_rows import FLOAT32, ROWS, Row

from lightning_adls.figures import Point, draw_points
from lightning_adls.significance import standard_error

# Of a normal distribution: 95 % lie within so many standard deviations.
NORMAL_95 = 1.96
HEAD = (
    *("row", "distilled", "bits per weight", "seeds", "validation %", "test %", "± seeds"),
    *("± rows", "test minus float32, points (95 %)"),
)


@dataclass(frozen=True)
class Line:
    """What the seeds of a row found; accuracies and what is about them are shares, 0 to 1.

    Args:
        row: Which.
        distilled: Whether it had a teacher.
        bits: Per weight, the mean over seeds.
        seeds: How many.
        validation: Mean accuracy on the validation split.
        test: Mean accuracy on the test split.
        over_seeds: Standard error of ``test`` over the seeds, NaN of a single one.
        over_rows: Its binomial standard error, of a single seed.
        difference: ``test`` minus that of float32, of the same seeds, NaN if that is missing.
        error: Standard error of the difference; see :func:`difference`.
    """

    row: Row
    distilled: bool
    bits: float
    seeds: int
    validation: float
    test: float
    over_seeds: float
    over_rows: float
    difference: float
    error: float

    def cells(self) -> tuple[str, ...]:
        """As the table has them: in percent."""
        low, high = (self.difference + sign * NORMAL_95 * self.error for sign in (-1, 1))
        known = self.difference == self.difference
        return (
            self.row.name,
            "yes" if self.distilled else "no",
            f"{self.bits:.2f}",
            str(self.seeds),
            f"{100 * self.validation:.2f}",
            f"{100 * self.test:.2f}",
            f"{100 * self.over_seeds:.2f}" if self.seeds > 1 else "",
            f"{100 * self.over_rows:.2f}",
            f"{100 * self.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            if known
            else "",
        )


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean of ``first - second``, and its standard error over test rows and over seeds.

    Seeds answer the same rows, so that their answers are not independent: the error over rows is
    that of each row's mean over seeds. For one seed it is what
    :func:`lightning_adls.significance.paired` has. For several, the error over seeds is added in
    squares, which counts what rows and seeds have in common twice and so is rather too large.

    Args:
        first: Whether an answer was right, ``(seeds, rows)``.
        second: The same of the model that is subtracted, by the same seeds and rows.
    """
    gained = first.astype(float) - second
    seeds, rows = gained.shape
    error = gained.mean(0).std() / sqrt(rows)
    if seeds > 1:
        error = sqrt(error**2 + gained.mean(1).var(ddof=1) / seeds)
    return float(gained.mean()), float(error)


def _right(found: Mapping[int, Mapping[str, Any]], seeds: Iterable[int]) -> np.ndarray:
    """Whether each test row was right, ``(seeds, rows)``."""
    return np.array([[answer == "1" for answer in found[seed]["test_right"]] for seed in seeds])


def lines(records: Records, data: str, rows: Sequence[str], seeds: Sequence[int]) -> Iterator[Line]:
    """What is known of a data set, row by row, without and with a teacher."""
    for name in rows:
        for distilled in (False, True):
            jobs = {seed: Job(data, seed, name, distilled) for seed in seeds}
            found = {seed: each for seed, job in jobs.items() if (each := records.of(job))}
            if not found:
                continue
            plain = {s: each for s in found if (each := records.of(Job(data, s, FLOAT32)))}
            gain, error = nan, nan
            if plain:
                gain, error = difference(_right(found, plain), _right(plain, plain))
            tested = [each["test_accuracy"] for each in found.values()]
            yield Line(
                row=ROWS[name],
                distilled=distilled,
                bits=fmean(each["bits_per_weight"] for each in found.values()),
                seeds=len(found),
                validation=fmean(each["val_accuracy"] for each in found.values()),
                test=fmean(tested),
                over_seeds=stdev(tested) / sqrt(len(tested)) if len(tested) > 1 else nan,
                over_rows=standard_error(
                    fmean(tested), len(next(iter(found.values()))["test_right"])
                ),
                difference=gain,
                error=error,
            )


def markdown(title: str, known: Sequence[Line]) -> str:
    """A heading and a table."""
    cells = [HEAD, ["---"] * len(HEAD), *(line.cells() for line in known)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return f"### {title}\n\n{table}\n"


# Formats of several widths are drawn beside each other, those of one weight width by themselves.
_LAST = ("Ternary", "Binary")


def draw(path: Path, data: str, known: Sequence[Line]) -> None:
    """Test accuracy over bits per weight, a curve for each family; distilled rows have a figure.

    Bars are standard errors over seeds and over rows, the squares added. float32 is that of the
    same figure: with a teacher, if the rows have one.

    Args:
        path: Of the rows without a teacher; ``_distilled`` is added to its name for the others.
        data: Name of the data set.
        known: The rows so far.
    """
    for distilled in (False, True):
        own = [line for line in known if line.distilled == distilled]
        curves: dict[str, list[Point]] = {}
        for line in sorted(own, key=lambda line: line.bits):
            if line.row.name != FLOAT32:
                over_seeds = line.over_seeds if line.seeds > 1 else 0.0
                error = sqrt(over_seeds**2 + line.over_rows**2)
                point = Point(round(line.bits, 2), line.test, error)
                curves.setdefault(line.row.family, []).append(point)
        if not curves:
            continue
        families = [row.family for row in ROWS.values()]
        ordered = sorted(curves, key=lambda n: (n.startswith(_LAST), families.index(n)))
        plain = [line.test for line in own if line.row.name == FLOAT32]
        teacher = ", with a teacher" if distilled else ""
        draw_points(
            path.with_stem(path.stem + "_distilled" * distilled),
            {name: curves[name] for name in ordered},
            title=f"Accuracy over bits per weight: {data}{teacher}",
            subtitle="weights and inputs of all linear layers rounded; bars are standard errors",
            x_label="bits per weight",
            y_label="test accuracy",
            compare=dict(zip([FLOAT32 + teacher], plain, strict=False)),
        )

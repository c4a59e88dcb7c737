"""Comparing searches, each of them run with several seeds."""

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_adls import report
from lightning_adls.events import write_run
from lightning_adls.report import Row
from lightning_adls.search import RUNNING_BEST, Search
from lightning_adls.significance import standard_error, standard_error_of_mean

BySeed = Mapping[int, Search[Any]]


def best_of(searches: BySeed) -> Search[Any] | None:
    """Of the same search with several seeds the one that found the best; None if none did."""
    found = [each for each in searches.values() if each.best is not None]
    return max(found, key=lambda each: each.curve[-1][1], default=None)


def rank(found: Mapping[str, BySeed], val_rows: int) -> dict[str, Row]:
    """The samplers, the best first: by the mean of their best values, then the trials to reach it.

    The standard error of a mean is that over the seeds; of a single seed, that of its rows. Of
    equals the one that comes first in ``found`` is the better; one that completed no trial for
    some seed is the worst.

    Args:
        found: The searches of each sampler, by seed.
        val_rows: Rows that a trial is validated on.
    """
    ranking: dict[str, Row] = {}
    for sampler, searches in found.items():
        curves = {seed: each.curve for seed, each in searches.items()}
        bests = {seed: curve[-1][1] if curve else None for seed, curve in curves.items()}
        reached = [
            next(n for n, y in curve if y == bests[s]) for s, curve in curves.items() if curve
        ]
        ended = all(curves.values())
        values = [best for best in bests.values() if best is not None]
        ranking[sampler] = {
            "mean_best": fmean(values) if ended else None,
            "mean_best_standard_error": _error(values, val_rows) if ended else None,
            "trials_to_best": fmean(reached) if ended else None,
            "best_by_seed": bests,
            "standard_error_by_seed": {
                seed: None if best is None else round(standard_error(best, val_rows), 6)
                for seed, best in bests.items()
            },
        }

    def place(sampler: str) -> tuple[float, float]:
        mean, trials = ranking[sampler]["mean_best"], ranking[sampler]["trials_to_best"]
        return (inf, inf) if mean is None else (-mean, trials)

    return {sampler: ranking[sampler] for sampler in sorted(ranking, key=place)}


def _error(values: Sequence[float], val_rows: int) -> float:
    if len(values) == 1:
        return round(standard_error(values[0], val_rows), 6)
    return round(standard_error_of_mean(values), 6)


def log(folder: Path, file: str, found: Mapping[str, BySeed]) -> None:
    """Log the running best of searches, the mean over their seeds, as TensorBoard curves."""
    together = {
        name: report.mean_and_range([each.curve for each in searches.values()])
        for name, searches in found.items()
    }
    curves = {name: mean for name, (mean, _) in together.items()}
    for name, curve in curves.items():
        write_run(folder / "mean" / file / name, curves={RUNNING_BEST: curve})

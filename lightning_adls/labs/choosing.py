"""Choosing among the models of a run, by the rows of its steps alone."""

from collections.abc import Iterator, Mapping

from lightning_adls.report import Row

Rows = Mapping[str, Row]


def best_quantised(rows: Rows) -> str | None:
    """The quantised model of the highest accuracy; of equals, the one of the fewest bits."""
    found = {step: row for step, row in rows.items() if "how" in row}
    return max(
        found,
        key=lambda step: (found[step]["accuracy"], -found[step]["bits_per_weight"]),
        default=None,
    )


def pruned_from(rows: Rows, source: str) -> Rows:
    """What pruning one model gave, the sparsest first; of equals the most accurate."""
    found = {step: row for step, row in rows.items() if row.get("pruned_from") == source}
    ranked = sorted(found, key=lambda step: (-found[step]["sparsity"], -found[step]["accuracy"]))
    return {step: found[step] for step in ranked}


def sparsest_within(rows: Rows, source: str, tolerance: float) -> str | None:
    """The sparsest model pruned from ``source`` that lost no more than ``tolerance``, if any."""
    least = rows[source]["accuracy"] - tolerance
    good = (s for s, row in pruned_from(rows, source).items() if row["accuracy"] >= least)
    return next(good, None)


def choosable(rows: Rows, source: str) -> Iterator[str]:
    """All that :func:`sparsest_within` gives for some tolerance: no sparser one is as accurate."""
    reached = -1.0
    for step, row in pruned_from(rows, source).items():
        if row["accuracy"] > reached:
            reached = row["accuracy"]
            yield step

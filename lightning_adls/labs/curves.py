"""What the rows of a run say of accuracy over width and over sparsity, as curves to be drawn."""

from collections import defaultdict
from collections.abc import Mapping

from lightning_adls.labs.choosing import Rows

# Points (x, y) in rising order of x, by the name of the curve.
Curves = Mapping[str, list[tuple[float, float]]]


def by_width(rows: Rows) -> Curves:
    """Accuracy over width: a curve for each way to quantise."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows.values():
        if "how" in row:
            found[f"{row['how'].upper()}, {row['frac_width']}"][row["width"]] = row["accuracy"]
    return _sorted(found)


def by_sparsity(rows: Rows, source: str) -> Curves:
    """Accuracy over sparsity of what was pruned from one model: a curve for each way to prune."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows.values():
        if row.get("pruned_from") == source:
            found[f"{row['method']}, {row['schedule']}"][row["target"]] = row["accuracy"]
            if "accuracy_untrained" in row:
                untrained = found[f"{row['method']}, not trained again"]
                untrained[row["target"]] = row["accuracy_untrained"]
    return _sorted(found)


def _sorted(found: Mapping[str, Mapping[float, float]]) -> Curves:
    return {name: sorted(points.items()) for name, points in found.items()}

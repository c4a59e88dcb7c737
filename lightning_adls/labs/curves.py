"""What the rows of Lab 1 say of accuracy over width and over sparsity, as curves to be drawn."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from lightning_adls.figures import Point
from lightning_adls.report import Row

# In rising order of x, by the name of the curve.
Curves = Mapping[str, list[Point]]


def by_width(rows: Sequence[Row]) -> Curves:
    """Accuracy over width: a curve for each way to quantise."""
    found: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        if row["method"] == "quantised":
            found[way_to_quantise(row)].append(_point(row, "width"))
    return _sorted(found)


def by_sparsity(rows: Sequence[Row], source: str) -> Curves:
    """Accuracy over sparsity of what was pruned from one model: a curve for each way to prune.

    Args:
        rows: Of the run.
        source: The step whose model was pruned.
    """
    found: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        if row["source"] == source and row["target_sparsity"] is not None:
            found[way_to_prune(row)].append(_point(row, "target_sparsity"))
            if (untrained := row["val_accuracy_untrained"]) is not None:
                name = f"{row['method']}, not trained again"
                error = row.get("val_standard_error_untrained")
                found[name].append(Point(row["target_sparsity"], untrained, error))
    return _sorted(found)


def way_to_quantise(row: Row) -> str:
    """In words: training, and how the fraction width was chosen.

    Example:
        >>> row = {"training": "none", "frac_width": "calibrated", "observer": "mse"}
        >>> way_to_quantise(row)
        'PTQ, calibrated by mse'
    """
    by = f" by {row['observer']}" if row.get("observer") else ""
    return f"{'PTQ' if row['training'] == 'none' else 'QAT'}, {row['frac_width']}{by}"


def way_to_prune(row: Row) -> str:
    """In words: what is pruned, and when.

    Example:
        >>> way_to_prune({"method": "l1-norm", "schedule": "one_shot"})
        'l1-norm, one shot'
    """
    return f"{row['method']}, {row['schedule'].replace('_', ' ')}"


def _point(row: Row, x: str) -> Point:
    return Point(row[x], row["val_accuracy"], row["val_standard_error"])


def _sorted(found: Mapping[str, list[Point]]) -> Curves:
    return {name: sorted(points) for name, points in found.items()}

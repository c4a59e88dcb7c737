"""Which of a lab's models are as good as its best one, as far as its validation rows can tell."""

from collections.abc import Mapping

from lightning_adls.labs.classified import Right
from lightning_adls.labs.tables import cell
from lightning_adls.report import Row
from lightning_adls.significance import Measured, indistinguishable, one_standard_error

# How a cost stands after its number.
_UNITS = {"bits_per_weight": ("bits per weight", ".3g"), "size_mb": ("MB", ".3f")}


def about_best(
    rows: Mapping[str, Row], right: Mapping[str, Right | None], val_rows: int, cost: str
) -> Row:
    """What may be called the best of some models.

    Args:
        rows: By name, with ``val_accuracy`` and the cost; without an accuracy, a model is left out.
            Of equals the first is the best.
        right: By name, what :func:`~lightning_adls.labs.classified.right` gives; None, or nothing,
            where a model's answers are not known.
        val_rows: Rows behind ``val_accuracy``.
        cost: The column that is to be low.

    Returns:
        ``best``; ``indistinguishable``, the names that
        :func:`~lightning_adls.significance.indistinguishable` gives; ``within_one_standard_error``,
        the cheapest of them by ``cost``, as
        :func:`~lightning_adls.significance.one_standard_error` chooses. Empty without a model.
    """
    models = {
        name: Measured(row["val_accuracy"], val_rows, right.get(name))
        for name, row in rows.items()
        if row.get("val_accuracy") is not None
    }
    if not models:
        return {}
    alike = indistinguishable(models)
    return {
        "best": alike[0],
        "indistinguishable": alike,
        "within_one_standard_error": one_standard_error(
            models, {name: rows[name][cost] for name in models}
        ),
        "cost": cost,
    }


def in_a_line(found: Row, rows: Mapping[str, Row]) -> str:
    """The same in a sentence.

    Args:
        found: What :func:`about_best` gave, not empty.
        rows: As it took them.

    Example:
        >>> row = {"val_accuracy": 0.864, "val_standard_error": 0.0077}
        >>> bits = {"MXInt": 4.25, "Full": 32}
        >>> rows = {name: {**row, "bits_per_weight": each} for name, each in bits.items()}
        >>> found = {"best": "Full", "indistinguishable": ["Full", "MXInt"]}
        >>> found |= {"within_one_standard_error": "MXInt", "cost": "bits_per_weight"}
        >>> in_a_line(found, rows).partition("; ")[0]
        'Best on validation: Full, 0.8640 ± 0.0077'
        >>> in_a_line(found, rows).partition(". ")[2]
        'Best within one standard error: MXInt, 4.25 bits per weight.'
    """
    best, cheapest, cost = found["best"], found["within_one_standard_error"], found["cost"]
    others = ", ".join(found["indistinguishable"][1:]) or "none"
    unit, spec = _UNITS[cost]
    return (
        f"Best on validation: {best}, {cell(rows[best], 'val_accuracy', '.4f')}; not told from it: "
        f"{others}. Best within one standard error: {cheapest}, "
        f"{format(rows[cheapest][cost], spec)} {unit}."
    )

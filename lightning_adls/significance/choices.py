"""Which of several models may be called the best."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_adls.errors import InputValueError
from lightning_adls.significance.differences import Difference, paired, standard_error, unpaired


@dataclass(frozen=True)
class Measured:
    """What is known of a model.

    Args:
        accuracy: 0 to 1.
        rows: Behind it.
        right: Whether the model was right, by the number of the row; None where that is not known.
    """

    accuracy: float
    rows: int
    right: Mapping[int, bool] | None = None


def difference(first: Measured, second: Measured) -> Difference:
    """The accuracy of the first minus that of the second.

    Row by row, where that is known of both and the rows are the same; else by :func:`unpaired`.
    """
    if first.right and second.right and first.right.keys() == second.right.keys():
        return paired(list(first.right.values()), [second.right[row] for row in first.right])
    return unpaired(first.accuracy, second.accuracy, first.rows, second.rows)


def indistinguishable(models: Mapping[str, Measured]) -> list[str]:
    """Names of the models that cannot be told from the most accurate one.

    Each is tested against it, at p < 0.05. The tests are not corrected for their number: with a
    correction more models would be left.

    Args:
        models: By their names.

    Returns:
        The most accurate first; of equals, the one that comes first in ``models``.

    Raises:
        InputValueError: If there are none.
    """
    ranked = _ranked("indistinguishable", models)
    best = models[ranked[0]]
    return [name for name in ranked if not difference(best, models[name]).real]


def one_standard_error(models: Mapping[str, Measured], costs: Mapping[str, float]) -> str:
    """The cheapest model that is as good as the best one, as far as can be seen.

    It is within one standard error of the most accurate one, and not told from it by
    :func:`indistinguishable`: the one-standard-error rule of Breiman, Friedman, Olshen and Stone
    1984, "Classification and Regression Trees", section 3.4.3. There the error is that of the most
    accurate one, and the cheapest is the smallest tree.

    Args:
        models: By their names.
        costs: Of each, in any unit.

    Returns:
        Its name. Of equally cheap ones it is the most accurate, of equals the first.

    Raises:
        InputValueError: If there are none, or a cost is missing.
    """
    ranked = _ranked("one_standard_error", models)
    if missing := [name for name in models if name not in costs]:
        raise InputValueError(f"one_standard_error: costs has none of {missing[0]!r}.")
    best = models[ranked[0]]
    least = best.accuracy - standard_error(best.accuracy, best.rows)
    good = [name for name in indistinguishable(models) if models[name].accuracy >= least]
    return min(good, key=lambda name: costs[name])


def _ranked(who: str, models: Mapping[str, Measured]) -> list[str]:
    """Names by accuracy, the highest first."""
    if not models:
        raise InputValueError(f"{who}: models is empty; give at least one.")
    return sorted(models, key=lambda name: -models[name].accuracy)

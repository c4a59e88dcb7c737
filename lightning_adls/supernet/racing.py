"""Judging many recipes on few rows, and on more rows those alone that may still be the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from statistics import fmean, pvariance
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.significance import paired, paired_means
from lightning_adls.supernet.subnetworks import Subnetworks
from lightning_adls.transforms.quantize import Quantize

# Of a module and a batch: for each row whether it is right, or its loss.
Judge = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Raced:
    """How a recipe did in a race.

    Args:
        recipe: What is rounded.
        rows: For each row that it was judged on, whether it was right, or its loss.
        left: Whether it was judged on all rows, and cannot be told from the best.
    """

    recipe: Quantize
    rows: tuple[bool, ...] | tuple[float, ...] = field(repr=False)
    left: bool

    @property
    def mean(self) -> float:
        """On the rows that it was judged on: the accuracy, or the mean loss."""
        return fmean(self.rows)

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return sqrt(pvariance(map(float, self.rows)) / len(self.rows))


def rows_right(module: Any, batch: Any) -> Tensor:
    """Whether the largest of ``module.logits(batch)`` is at ``batch["labels"]``, for each row."""
    right: Tensor = _logits(module, batch).argmax(-1) == batch["labels"]
    return right


def rows_loss(module: Any, batch: Any) -> Tensor:
    """Cross-entropy of ``module.logits(batch)`` with ``batch["labels"]``, for each row, in nats."""
    logits = _logits(module, batch)
    return nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="none")


def race(
    subnetworks: Subnetworks[Any],
    recipes: Sequence[Quantize],
    batches: Sequence[Any],
    judge: Judge = rows_right,
    *,
    keep: float = 1.0,
    stages: int = 5,
    level: float = 0.05,
) -> list[Raced]:
    """Judge recipes without training, on ever more rows and ever fewer recipes.

    All begin on ``1 / 2 ** (stages - 1)`` of the rows. Those that are worse than the best so far
    are dropped, by a test on the rows that both were judged on, and the others go on to twice as
    many rows. The idea is that of Maron and Moore 1994 ("Hoeffding races", NeurIPS 6); the test is
    paired, because recipes of one supernet mostly fail on the same rows. What is right or not is
    tested by McNemar's exact test; losses, which tell recipes apart on fewer rows, by Student's.

    Where none can be told from the best, nothing is saved. With ``keep`` below 1 the cost is
    limited whatever is found, as in successive halving (Jamieson and Talwalkar 2016,
    arXiv:1502.07943): a heuristic, by which the best may be dropped with any probability. Recipes
    that are about as good as the best are what it gives then.

    Args:
        subnetworks: Make the modules.
        recipes: At least one.
        batches: Validation batches, on the device of the module, in an order that is random with
            respect to what they hold.
        judge: Of a module and a batch, for each row whether it is right, bool, of which most is
            best; or its loss, floating point, of which least is best, such as :func:`rows_loss`. A
            recipe is dropped where a loss is not finite.
        keep: The share of the recipes of a stage that go on to the next at most, rounded up, above
            0. With 0.5 a race in 5 stages reads a fifth of the rows.
        stages: How often is judged, at least 1; there are at most as many as batches.
        level: With ``keep=1``, the probability, at most, that the recipe which is truly the best is
            dropped: each test is at ``level / (stages * len(recipes))``. Of losses it holds where
            the rows are so many that their mean is normal.

    Returns:
        For each recipe, in their order, how it did.

    Raises:
        InputValueError: If there is no recipe or batch, an argument is out of range, or ``judge``
            gives something else than a boolean, or a loss, for each row.

    Example:
        >>> def best(subnetworks, recipes, batches):
        ...     found = race(subnetworks, recipes, batches, rows_loss, keep=0.5)
        ...     return min((each for each in found if each.left), key=lambda each: each.mean)
    """
    _check(recipes, batches, keep, stages, level)
    each_level = level / (stages * len(recipes))
    # Of all rows so far, what is best when it is largest.
    merits: list[list[float]] = [[] for _ in recipes]
    of_losses = False
    running, done = list(range(len(recipes))), 0
    for stage in range(stages):
        until = ceil(len(batches) / 2 ** (stages - 1 - stage))
        if until == done:
            continue
        for place in tuple(running):
            rows = _judged(subnetworks(recipes[place]), batches[done:until], judge)
            of_losses = rows.dtype != torch.bool
            merits[place] += (-rows if of_losses else rows).tolist()
            if not rows.isfinite().all():
                running.remove(place)
        done = until
        running.sort(key=lambda place: (-sum(merits[place]), place))
        best = merits[running[0]] if running else []
        running = [place for place in running if not _worse(merits[place], best, each_level)]
        if done < len(batches):
            running = running[: ceil(keep * len(running))]
    return [
        Raced(
            recipe,
            tuple(-merit for merit in found) if of_losses else tuple(map(bool, found)),
            place in running,
        )
        for place, (recipe, found) in enumerate(zip(recipes, merits, strict=True))
    ]


def _worse(merits: Sequence[float], best: Sequence[float], level: float) -> bool:
    """Whether a recipe is told from the best so far."""
    if sum(merits) >= sum(best) or len(best) < 2:
        return False
    if isinstance(best[0], bool):
        found = paired([bool(each) for each in best], [bool(each) for each in merits])
    else:
        found = paired_means(best, merits)
    return found.p_value < level


def _check(
    recipes: Sequence[Quantize], batches: Sequence[Any], keep: float, stages: int, level: float
) -> None:
    if not recipes:
        raise InputValueError("race: recipes is empty; give those that are to be judged.")
    if not batches:
        raise InputValueError("race: batches is empty; give validation batches.")
    if not 0 < keep <= 1:
        raise InputValueError(f"race: keep={keep} is not above 0 and at most 1.")
    if stages < 1:
        raise InputValueError(f"race: stages={stages} is below 1.")
    if not 0 < level < 1:
        raise InputValueError(f"race: level={level} is not between 0 and 1.")


@torch.inference_mode()
def _judged(module: L.LightningModule, batches: Sequence[Any], judge: Judge) -> Tensor:
    module.eval()
    found: list[Tensor] = []
    for batch in batches:
        rows: Any = judge(module, batch)
        told = isinstance(rows, Tensor) and rows.ndim == 1
        if not told or not (rows.dtype == torch.bool or rows.is_floating_point()):
            raise InputValueError(
                "race: judge gave no boolean and no loss for each row of a batch; it is called "
                "with a module and a batch."
            )
        found.append(rows.cpu())
    return torch.cat(found)


def _logits(module: Any, batch: Any) -> Tensor:
    if not callable(getattr(module, "logits", None)):
        raise InputValueError(
            f"race: {type(module).__name__} has no method logits(batch); give judge=, a function "
            "of a module and a batch."
        )
    found: Tensor = module.logits(batch)
    return found

"""Judging many recipes on few rows, and on more rows those alone that may still be the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_adls.errors import InputValueError
from lightning_adls.significance import paired, standard_error
from lightning_adls.supernet.subnetworks import Subnetworks
from lightning_adls.transforms.quantize import Quantize

# Of a module and a batch: whether it is right, for each row.
Right = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Raced:
    """How a recipe did in a race.

    Args:
        recipe: What is rounded.
        right: For each row that it was judged on, whether it was right.
        left: Whether it was judged on all rows, and cannot be told from the best.
    """

    recipe: Quantize
    right: tuple[bool, ...] = field(repr=False)
    left: bool

    @property
    def accuracy(self) -> float:
        """On the rows that it was judged on."""
        return sum(self.right) / len(self.right)

    @property
    def standard_error(self) -> float:
        """Of the accuracy."""
        return standard_error(self.accuracy, len(self.right))


def race(
    subnetworks: Subnetworks[Any],
    recipes: Sequence[Quantize],
    batches: Sequence[Any],
    right: Right | None = None,
    *,
    stages: int = 5,
    level: float = 0.05,
) -> list[Raced]:
    """Judge recipes without training, on ever more rows and ever fewer recipes.

    All begin on ``1 / 2 ** (stages - 1)`` of the rows. Those that are worse than the best so far
    are dropped, by McNemar's exact test on the rows that both were judged on, and the others go on
    to twice as many rows. The idea is that of Maron and Moore 1994 ("Hoeffding races", NeurIPS 6);
    the test is paired, because recipes of one supernet mostly fail on the same rows.

    Where none can be told from the best, nothing is saved.

    Args:
        subnetworks: Make the modules.
        recipes: At least one.
        batches: Validation batches, on the device of the module, in an order that is random with
            respect to what they hold.
        right: By default whether the largest of ``module.logits(batch)`` is at
            ``batch["labels"]``.
        stages: How often is judged, at least 1; there are at most as many as batches.
        level: The probability, at most, that the recipe which is truly the best is dropped: each
            test is at ``level / (stages * len(recipes))``.

    Returns:
        For each recipe, in their order, how it did.

    Raises:
        InputValueError: If there is no recipe or batch, an argument is out of range, or ``right``
            gives something else than a boolean for each row.
    """
    _check(recipes, batches, stages, level)
    each_level = level / (stages * len(recipes))
    answers: list[list[bool]] = [[] for _ in recipes]
    running, done = set(range(len(recipes))), 0
    for stage in range(stages):
        until = ceil(len(batches) / 2 ** (stages - 1 - stage))
        if until == done:
            continue
        for place in sorted(running):
            module = subnetworks(recipes[place])
            answers[place] += _answers(module, batches[done:until], right or _right)
        done = until
        best = max(sorted(running), key=lambda place: sum(answers[place]))
        running -= {
            place
            for place in running
            if sum(answers[place]) < sum(answers[best])
            and paired(answers[best], answers[place]).p_value < each_level
        }
    return [
        Raced(recipe, tuple(answers[place]), place in running)
        for place, recipe in enumerate(recipes)
    ]


def _check(recipes: Sequence[Quantize], batches: Sequence[Any], stages: int, level: float) -> None:
    if not recipes:
        raise InputValueError("race: recipes is empty; give those that are to be judged.")
    if not batches:
        raise InputValueError("race: batches is empty; give validation batches.")
    if stages < 1:
        raise InputValueError(f"race: stages={stages} is below 1.")
    if not 0 < level < 1:
        raise InputValueError(f"race: level={level} is not between 0 and 1.")


@torch.inference_mode()
def _answers(module: L.LightningModule, batches: Sequence[Any], right: Right) -> list[bool]:
    module.eval()
    found: list[bool] = []
    for batch in batches:
        answers = right(module, batch)
        if not isinstance(answers, Tensor) or answers.dtype != torch.bool or answers.ndim != 1:
            raise InputValueError(
                "race: right gave no boolean for each row of a batch; it is called with a module "
                "and a batch."
            )
        found += answers.tolist()
    return found


def _right(module: Any, batch: Any) -> Tensor:
    if not callable(getattr(module, "logits", None)):
        raise InputValueError(
            f"race: right=None, but {type(module).__name__} has no method logits(batch); give a "
            "function of a module and a batch."
        )
    answers: Tensor = module.logits(batch).argmax(-1) == batch["labels"]
    return answers

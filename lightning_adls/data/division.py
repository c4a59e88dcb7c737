"""How the rows of a training split are divided into those to train, validate and test on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TEST_SEED = 0  # runs that differ in their `seed` are tested on the same rows


def divide(
    labels: Tensor, share: float, seed: int, *, with_test: bool, same: Tensor | None = None
) -> dict[str, Tensor]:
    """Choose the rows to train, to validate and (if need be) to test on.

    Args:
        labels: Class of each row, ``(rows,)``; every part keeps the balance.
        share: Of the rows to validate on, and of those to test on, between 0 and 1.
        seed: Decides the rows to validate on.
        with_test: Whether rows to test on are among these. They do not depend on ``seed``.
        same: Number of each row's text, ``(rows,)``: rows of one number go to one part. None lets
            them fall where they fall.

    Returns:
        Row numbers of ``"train"``, ``"val"`` and ``"test"``, int64, each such that any prefix keeps
        the balance of the classes.
    """
    rest, test = torch.arange(len(labels)), torch.arange(0)
    if with_test:
        test, rest = _carve(rest, labels, share, [TEST_SEED], same)
    val, train = _carve(rest, labels, share, [seed], same)
    return {"train": train, "val": val, "test": test}


def _carve(
    rows: Tensor, labels: Tensor, share: float, seed: Sequence[int], same: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A share of some rows, one at least, and the others; both in a balanced order."""
    rows = rows[balanced_order(labels[rows], seed)]
    count = max(1, round(len(rows) * share))
    if same is None:
        return rows[:count], rows[count:]
    _, texts, sizes = same[rows].unique(return_inverse=True, return_counts=True)
    # Texts in the order of their first rows, as long as all of their rows fit in.
    chosen, room = torch.zeros(len(sizes), dtype=torch.bool), count
    for text in dict.fromkeys(texts.tolist()):
        if sizes[text] <= room:
            chosen[text] = True
            room -= int(sizes[text])
    inside = chosen[texts]
    return rows[inside], rows[~inside]


def balanced_order(labels: Tensor, seed: Sequence[int]) -> Tensor:
    """Shuffle the rows such that every prefix, and every suffix, keeps the class balance.

    Row ``k`` of the ``n`` rows of a class is placed at ``(k + 1/2) / n`` of the whole, so a
    prefix holds each class in its share, to within one row.

    Args:
        labels: Class of each row, shape ``(rows,)``.
        seed: Numbers that decide the order of the rows within a class and among classes.

    Returns:
        Row numbers, int64, shape ``(rows,)``.

    Example:
        >>> labels = torch.tensor([0] * 6 + [1] * 2)
        >>> labels[balanced_order(labels, [0])[:4]].bincount().tolist()
        [3, 1]
    """
    shuffled = np.random.default_rng(list(seed)).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    place = np.empty(len(labels))
    for value in np.unique(classes):
        members = np.flatnonzero(classes == value)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return torch.from_numpy(shuffled[np.argsort(place, kind="stable")])

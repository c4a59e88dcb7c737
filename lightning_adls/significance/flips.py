"""How many answers a change of a model changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_adls.errors import InputValueError


@dataclass(frozen=True)
class Flips:
    """Rows on which two models answer differently.

    Accuracies that are alike can hide many of them: Dutta et al. 2024, "Accuracy is Not All You
    Need", arXiv:2407.09141, section 3, who compare compressed models with what they were made of.

    Attributes:
        changed: Rows with another answer, from one wrong class to another included.
        right_to_wrong: Those of them that were right before.
        wrong_to_right: Those that are right now.
        rows: All rows.
    """

    changed: int
    right_to_wrong: int
    wrong_to_right: int
    rows: int

    @property
    def share(self) -> float:
        """Of the rows, those with another answer, 0 to 1."""
        return self.changed / self.rows


def flips(labels: Sequence[int], before: Sequence[int], after: Sequence[int]) -> Flips:
    """Compare the answers of two models row by row.

    Args:
        labels: Class of each row.
        before: What the first model took it for, such as the unquantised one.
        after: What the second one took it for.

    Raises:
        InputValueError: If there are no rows, or not as many of all three.

    Example:
        >>> flips(labels=[0, 0, 1, 2], before=[0, 1, 1, 0], after=[1, 0, 1, 1])
        Flips(changed=3, right_to_wrong=1, wrong_to_right=1, rows=4)
    """
    rows = len(labels)
    if not rows or not rows == len(before) == len(after):
        raise InputValueError(
            f"flips: labels has {rows} rows, before {len(before)} and after {len(after)}; give all "
            "of the same rows."
        )
    answers = list(zip(labels, before, after, strict=True))
    return Flips(
        changed=sum(old != new for _, old, new in answers),
        right_to_wrong=sum(old == label != new for label, old, new in answers),
        wrong_to_right=sum(old != label == new for label, old, new in answers),
        rows=rows,
    )

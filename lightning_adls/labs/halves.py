"""The validation rows in two halves: one to choose by, the other to report on.

The best of many trials is too high on the rows that it was chosen by: the winner's curse (Cawley
and Talbot 2010, "On Over-fitting in Model Selection and Subsequent Selection Bias in Performance
Evaluation", JMLR 11). On rows that nothing was chosen by it is not.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError

# What a search reports its accuracies on: the rows that it chooses by, or the other half.
ReportOn = Literal["all", "half"]


@dataclass(frozen=True)
class Halves:
    """Two parts of the validation rows, as large as each other but for one row.

    Args:
        choosing: Whether a row is one to choose by, bool, ``(rows,)``, in the order of the data
            set; the others are reported on.
        index: The number that each row has in its split's file, int64, ``(rows,)``.
    """

    choosing: Tensor
    index: Tensor

    @classmethod
    def of(cls, texts: TextData, seed: int) -> "Halves":
        """Divide the validation rows: each class by halves, drawn with the seed.

        Args:
            texts: Set up to validate on.
            seed: Of the division; nothing else decides it.

        Raises:
            InputValueError: If there are fewer than two rows.
        """
        rows = texts.rows("val")
        if len(rows) < 2:
            raise InputValueError(
                f"Halves: {len(rows)} row to validate on cannot be divided; give more, or report "
                "on all."
            )
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        # One class after the other, each in the order that was drawn; every second row is chosen.
        dealt = drawn[torch.argsort(rows.labels[drawn], stable=True)]
        choosing = torch.zeros(len(rows), dtype=torch.bool)
        choosing[dealt[::2]] = True
        return cls(choosing, rows.index)

    @property
    def comparing(self) -> set[int]:
        """Numbers of the rows that are chosen by."""
        return set(self.index[self.choosing].tolist())

    @property
    def reporting(self) -> set[int]:
        """Numbers of the rows that are reported on."""
        return set(self.index[~self.choosing].tolist())

    @property
    def sizes(self) -> tuple[int, int]:
        """How many rows are chosen by, and how many are reported on."""
        chosen = int(self.choosing.sum())
        return chosen, len(self.choosing) - chosen

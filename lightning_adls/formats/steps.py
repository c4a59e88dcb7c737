"""Few codes that are told apart by comparing."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Where the codes of a matrix change, for a format that has few.

    Args:
        at: Ascending, of the dtype that the format computes in, shape ``(steps,)``, or
            ``(rows, steps)`` where each row has its own.
        codes: ``codes[n]`` is that of an element which ``n`` of the steps do not exceed.
        shared: What elements share, as :meth:`~lightning_adls.formats.NumberFormat.to_codes` gives
            it.
    """

    at: Tensor
    codes: tuple[int, ...]
    shared: Tensor | None

    def of_rows(self, rows: slice) -> Tensor:
        """The steps of some rows."""
        return self.at if self.at.ndim == 1 else self.at[rows]

    def find(self, x: Tensor, rows: slice) -> Tensor:
        """Codes of some rows, which hold no NaN, uint8."""
        at = self.of_rows(rows).contiguous()
        passed = torch.searchsorted(at, x.contiguous(), right=True, out_int32=True)
        return torch.tensor(self.codes, dtype=torch.uint8, device=x.device)[passed]

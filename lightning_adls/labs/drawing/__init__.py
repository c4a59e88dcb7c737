"""The figures of each lab, drawn from what its run has written."""

from lightning_adls.labs.drawing.drawn import Figure
from lightning_adls.labs.drawing.of_lab import draw

__all__ = ["Figure", "draw"]

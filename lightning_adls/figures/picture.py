"""A figure that was drawn: where it is, and how a notebook shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A figure on disk. As the last value of a cell, a notebook shows it.

    Args:
        path: Of the PNG file; the PDF lies beside it.
    """

    path: Path

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """What Jupyter asks for: the file, and the width to show it at, half of its pixels."""
        from PIL import Image

        with Image.open(self.path) as image:
            return self.path.read_bytes(), {"width": image.width // 2}

"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One sentence about the environment.

    Args:
        kind: ``ok``; ``note``, which costs time or a part of the package; ``problem``, with which
            labs do not run.
        text: What was found, and after a semicolon what to do about it.
    """

    kind: Kind
    text: str

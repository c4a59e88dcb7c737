"""Whether a metric is to be as high or as low as possible, in the words of Lightning."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from optuna import Study

# As ModelCheckpoint and EarlyStopping take it.
Mode = Literal["max", "min"]
DIRECTIONS: dict[Mode, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}


def mode_of(study: "Study") -> Mode:
    """What a study does with its metric, which is the first of its values."""
    return "min" if study.directions[0].name == "MINIMIZE" else "max"


def merit(value: float, mode: Mode) -> float:
    """A value by which the better of two is the higher one.

    Example:
        >>> merit(0.3, "min") > merit(0.4, "min")
        True
    """
    return -value if mode == "min" else value

"""What a search needs of its objective."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

from lightning_adls.search.judged import JudgedTrial, Outcome
from lightning_adls.search.modes import Mode
from lightning_adls.search.space import ChoiceT, Space


class BaseObjective(ABC, Generic[ChoiceT]):
    """Judges the trials of a search; :class:`Objective` does so by training a LightningModule.

    A subclass has a space and a folder, and says what a trial is worth. It has one value, which is
    maximised, and no limits, unless it says otherwise.

    Attributes:
        space: What to choose from.
        folder: Where trials keep what they leave.
        monitor: What the value is called.
        mode: Whether it is to be high (``max``) or low (``min``).
        minimise: Names of costs that are further values of a trial.

    Example:
        >>> class Nearest(BaseObjective[Any]):
        ...     def __init__(self, space: Space[Any], folder: Path) -> None:
        ...         self.space, self.folder = space, folder
        ...
        ...     def __call__(self, trial: JudgedTrial) -> float:
        ...         return -abs(3 - self.space.suggest(trial))
    """

    space: Space[ChoiceT]
    folder: Path
    monitor: str = "value"
    mode: Mode = "max"
    minimise: Sequence[str] = ()

    @abstractmethod
    def __call__(self, trial: JudgedTrial) -> float | tuple[float, ...]:
        """Judge one trial; a tuple where costs are minimised beside the value."""

    def prepare_data(self) -> None:  # by default there are none
        """Prepare data, unless it was done: in the driver, before workers would do it at once."""
        return

    def check_limits(self) -> None:  # by default there are none
        """Refuse, before any work, limits that no choice is within.

        Raises:
            InputValueError: If so.
        """

    def refused(self, choice: ChoiceT) -> Outcome | None:
        """What becomes of a trial whose choice must not be tried; None if it may be."""
        return None

    def shrunk(self, choice: ChoiceT, rng: random.Random) -> Mapping[str, Any] | None:
        """The parameters of what is tried in the place of a choice; None for the choice itself."""
        return None

"""What a search chooses from, as its sampler and its objective see it."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from optuna.trial import BaseTrial

from lightning_adls.errors import InputValueError

MOST_GRID_POINTS = 10**5


class Choice(Protocol):
    """One point of a space: a recipe, an architecture."""

    def to_dict(self) -> Mapping[str, Any]:
        """The choice in values that JSON can hold; a trial stores it."""


ChoiceT = TypeVar("ChoiceT", bound=Choice)
_ChoiceT_co = TypeVar("_ChoiceT_co", bound=Choice, covariant=True)


class Space(Protocol[_ChoiceT_co]):
    """All choices of one study.

    The parameters of its trials are strings and numbers: they fit every sampler and every storage,
    where classes and tuples break both.
    """

    @property
    def points(self) -> int:
        """How many different choices there are."""

    def suggest(self, trial: BaseTrial) -> _ChoiceT_co:
        """Let ``trial`` choose."""

    def read(self, stored: Mapping[str, Any]) -> _ChoiceT_co:
        """The choice whose ``to_dict()`` gave ``stored``."""

    def grid(self) -> dict[str, list[Any]]:
        """The values of each parameter of a trial, as Optuna's GridSampler takes them.

        Raises:
            ValueError: If the space cannot be enumerated.
        """

    def to_dict(self) -> dict[str, Any]:
        """Everything that can be chosen, for the fingerprint of a study."""


def check_grid(who: str, points: int, remedy: str) -> None:
    """Refuse a grid that Optuna, which writes out all its points, could not hold in memory.

    Raises:
        ValueError: If there are more than 10^5 points; ``remedy`` says what to do.
    """
    if points > MOST_GRID_POINTS:
        raise InputValueError(
            f"{who}: sampler='grid' would enumerate {float(points):.1e} points, the most is "
            f"{MOST_GRID_POINTS}; {remedy}, or use 'random' or 'tpe'."
        )

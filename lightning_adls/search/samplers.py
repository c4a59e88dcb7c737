"""What proposes the trials of a search: any sampler of Optuna, or a grid."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.search.history import point_of
from lightning_adls.search.space import Space
from lightning_adls.search.study import ended_trials


class SamplerFactory(Protocol):
    """A class of samplers, or a partial of one."""

    def __call__(self, *, seed: int) -> BaseSampler:
        """The sampler of one trial."""


class PointsSampler(BaseSampler):
    """Given points of a search's space, each once; a class for each way to choose them.

    A point is taken for tried once its trial has ended, so that of an interrupted search none is
    left out.
    """

    def __init__(self) -> None:
        self._point: Mapping[str, Any] = {}

    @abstractmethod
    def points(self) -> Iterator[Mapping[str, Any]]:
        """The points, in their order: parameters of trials."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take the first point that no other trial has tried to its end, or tries now."""
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        begun = [*ended_trials(study), *(each for each in others if each.number != trial.number)]
        tried = {point_of(other.params) for other in begun}
        left = [each for each in self.points() if point_of(each) not in tried]
        self._point = left[0] if left else next(self.points())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of the point."""
        return self._point[param_name]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: all parameters are sampled by themselves."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}


class GridSampler(PointsSampler):
    """Every point of a search's space once, in an order of the search's seed.

    Optuna's own GridSampler takes the point of an interrupted trial for tried, and leaves it out.

    Args:
        seed: Every sampler is called with one. The order of the points is that of the search's
            seed, which :meth:`enumerate` brings: it must be the same in all trials.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self._names: list[str] = []
        self._values: list[list[Any]] = []
        self._order: Sequence[int] = ()

    def enumerate(self, space: Space[Any], seed: int) -> None:
        """Learn the points; a search calls this.

        Raises:
            ValueError: If the space cannot be enumerated.
        """
        grid = space.grid()
        self._names, self._values = list(grid), list(grid.values())
        count = prod(len(values) for values in self._values)
        self._order = np.random.default_rng(seed).permutation(count).tolist()

    def points(self) -> Iterator[Mapping[str, Any]]:
        """All of them."""
        return (dict(zip(self._names, self._at(place), strict=True)) for place in self._order)

    def _at(self, place: int) -> tuple[Any, ...]:
        """A point by its number, the last parameter varying fastest."""
        found = []
        for values in reversed(self._values):
            place, digit = divmod(place, len(values))
            found.append(values[digit])
        return tuple(reversed(found))


class ProposedSampler(PointsSampler):
    """Points that were chosen before the search: by a plan, or by another search.

    Args:
        points: Parameters of trials, at least one; see :meth:`FormatSpace.params_of`. A search of
            more trials tries the first of them again, which costs nothing.
        seed: Every sampler is called with one; this one draws nothing.

    Raises:
        InputValueError: If there are none.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]], seed: int | None = None) -> None:
        super().__init__()
        if not points:
            raise InputValueError("ProposedSampler: points is empty; give at least one.")
        self._points = points

    def points(self) -> Iterator[Mapping[str, Any]]:
        """As they were given."""
        return iter(self._points)


# By the names that run_study knows. Spaces may be conditional, and then what trials have in common
# is too little for a multivariate sampler.
SAMPLERS: dict[str, SamplerFactory] = {
    "tpe": partial(TPESampler, multivariate=False),
    "random": RandomSampler,
    "grid": GridSampler,
}


def make_sampler(
    factory: SamplerFactory, space: Space[Any], seed: int, index: int = 0, objectives: int = 1
) -> BaseSampler:
    """The sampler of one trial, seeded by the search's seed and the trial's place.

    A search makes it anew for each trial, so that one that was interrupted proposes what it would
    have proposed without the interruption.

    Args:
        factory: Makes it.
        space: What it samples.
        seed: Of the search.
        index: Of the trial among those that count, from 0.
        objectives: How many the study has.

    Raises:
        ValueError: If the factory cannot be called with a seed, the space not be enumerated, or the
            sampler has no use for a second objective.
        MissingPackageError: If the sampler needs a package that is not installed.
    """
    own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    name = _name_of(factory)
    try:
        sampler = factory(seed=own)
    except ImportError as error:
        raise MissingPackageError(f"Search: sampler={name} needs a package: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputValueError(
            f"Search: sampler={name} cannot be made for each trial with seed={own}: "
            f"{str(error).rstrip('.')}; name one that takes a seed, with all its other arguments."
        ) from error
    if isinstance(sampler, GridSampler):
        sampler.enumerate(space, seed)
    if objectives > 1 and isinstance(sampler, CmaEsSampler):
        raise InputValueError(
            f"Search: sampler={name} takes one objective, and there are {objectives}; use "
            "NSGAIISampler, NSGAIIISampler, TPESampler, RandomSampler or GridSampler."
        )
    return sampler


def remember(sampler: BaseSampler, earlier: BaseSampler) -> None:
    """Give a sampler what an earlier one of the same study has read of it.

    Several samplers of Optuna, such as NSGAIISampler, keep which parameters all trials have in
    common, and look only at trials that are new to them. What is proposed does not depend on it;
    one that is made anew compares all parameters of all trials.

    Args:
        sampler: Of the next trial.
        earlier: Of the last one.
    """
    known = getattr(earlier, "_search_space", None)
    if type(sampler) is type(earlier) and isinstance(known, IntersectionSearchSpace):
        sampler._search_space = known  # type: ignore[attr-defined]


def _name_of(factory: SamplerFactory) -> str:
    """Of the class, also behind partials such as jsonargparse's."""
    inner = [factory, getattr(factory, "func", None), *getattr(factory, "args", ())]
    return next((part.__name__ for part in inner if isinstance(part, type)), repr(factory))

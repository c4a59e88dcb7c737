"""What the searches of Lab 3 are made of: where they are kept, what they choose, try and judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optuna.pruners import BasePruner
from optuna.storages import BaseStorage

from lightning_adls.classifier import TextClassifier
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.one_shot import OneShot
from lightning_adls.labs.planned import Planning
from lightning_adls.labs.strategies import Strategy
from lightning_adls.search import Budget, FormatSpace, SamplerFactory
from lightning_adls.transforms import Quantize


@dataclass(frozen=True)
class Stored:
    """Where the studies of a run are.

    Args:
        storage: That has them.
        shared: Whether several runs share it.
        run: Name of the run.
    """

    storage: BaseStorage
    shared: bool
    run: str

    def name_of(self, search: str) -> str:
        """What the study of a search is called there."""
        return f"lab3/{self.run}/{search}" if self.shared else search


@dataclass(frozen=True)
class Choosing:
    """What may be chosen.

    Args:
        spaces: By the name of the study.
        layers: Names of the linear layers that are searched.
        bits: Most bits per weight; None for any number.
    """

    spaces: Mapping[str, FormatSpace]
    layers: Sequence[str]
    bits: float | None = None


@dataclass(frozen=True)
class Proposing:
    """What is tried, and when a trial stops early.

    Args:
        strategy: What the trials try.
        trials: Of each search.
        sampler: What proposes them, where nothing is planned.
        pruner: What stops weak ones.
        planning: What a plan may spend.
        one_shot: What one training for all recipes may spend.
    """

    strategy: Strategy
    trials: int
    sampler: SamplerFactory
    pruner: BasePruner
    planning: Planning
    one_shot: OneShot


@dataclass(frozen=True)
class Judging:
    """What becomes of a recipe, and what it is compared by.

    Args:
        build: Makes a fresh module from a recipe.
        budget: What each trial may spend.
        trained: The studies whose trials train.
        monitoring: What trials are compared by.
        minimise: Costs that are further objectives beside that; not of searches that try what was
            chosen beforehand.
    """

    build: Callable[[Quantize], TextClassifier]
    budget: Budget
    trained: Sequence[str]
    monitoring: Monitoring
    minimise: Sequence[str] = ()

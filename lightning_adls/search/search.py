"""A search: one study, run until it has its trials; it can be stopped at any moment."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from lightning_adls.engines import Engine, Serial
from lightning_adls.errors import InputValueError
from lightning_adls.search.base_objective import BaseObjective
from lightning_adls.search.checkpoints import sweep
from lightning_adls.search.driver import TrialDriver
from lightning_adls.search.history import History, point_of
from lightning_adls.search.lease import check_free, hold
from lightning_adls.search.listeners import Listener
from lightning_adls.search.modes import mode_of
from lightning_adls.search.results import curve_of
from lightning_adls.search.samplers import SAMPLERS, SamplerFactory, make_sampler
from lightning_adls.search.space import ChoiceT
from lightning_adls.search.study import (
    best_trial,
    close_interrupted,
    counted_trials,
    note_points,
    open_study,
)


@dataclass(eq=False)
class Search(Generic[ChoiceT]):
    """Runs a study until it has its trials, or every point of its space was tried.

    Everything about a trial is in the study, so that any process can go on where another stopped:
    which trials count, the seed of the sampler (from the trial's place), the best checkpoint.

    Args:
        study: From :func:`open_study`; trials that it has already are not run again.
        objective: Judges a trial.
        sampler: Proposes the trials: any class of samplers of Optuna that takes a ``seed``, or a
            partial of one (in YAML a ``class_path``). It is made anew for each trial, with a seed
            of the trial's own, so a search that was interrupted proposes what it would have
            proposed without the interruption.
        trials: How many trials the study shall have in the end, pruned and failed ones included.
        seed: Of the sampler.
        listeners: Are told of each trial.
        engine: Who judges the trials: this process, or workers of its own; who makes it closes it.

    Raises:
        InputValueError: If ``trials`` is below 1, the sampler takes no seed, not this space or no
            second objective, or the study has not the mode and the objectives of ``objective``.
    """

    study: optuna.Study
    objective: BaseObjective[ChoiceT]
    sampler: SamplerFactory = SAMPLERS["tpe"]
    trials: int = 24
    seed: int = 0
    listeners: Sequence[Listener] = ()
    engine: Engine = field(default_factory=Serial)
    # Of the study while it is run: nobody else changes it.
    _history: History | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputValueError(f"Search: trials={self.trials} is below 1.")
        objectives = 1 + len(self.objective.minimise)
        if len(self.study.directions) != objectives:
            raise InputValueError(
                f"Search: minimise={list(self.objective.minimise)} makes {objectives} objectives, "
                f"and the study {self.name!r} has {len(self.study.directions)}; give open_study "
                "the same minimise."
            )
        if mode_of(self.study) != self.objective.mode:
            raise InputValueError(
                f"Search: mode={self.objective.mode!r} of the objective is not that of the study "
                f"{self.name!r}, {mode_of(self.study)!r}; give open_study the same mode."
            )
        make_sampler(self.sampler, self.objective.space, self.seed, objectives=objectives)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.study.study_name

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials so far; those that were interrupted do not count."""
        return counted_trials(self.study) if self._history is None else [*self._history.trials]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial of the best value; None before it.

        Of equals it is the cheapest, where costs are minimised, and then the earliest.
        """
        return best_trial(self.study) if self._history is None else self._history.best

    @property
    def curve(self) -> list[tuple[float, float]]:
        """The running best as points: number of trials, best value so far."""
        return curve_of(self.counted, self.objective.mode)

    @property
    def total(self) -> int:
        """How many trials there can be."""
        return min(self.trials, self.objective.space.points)

    @property
    def complete(self) -> bool:
        """Whether the study has all its trials, or every point of its space was tried."""
        counted = self.counted
        points = self.objective.space.points
        if len(counted) >= self.trials or len(counted) < points:
            return len(counted) >= self.trials
        return len({point_of(trial.params) for trial in counted}) >= points

    def check_free(self) -> None:
        """Refuse early what :meth:`run` would refuse.

        Raises:
            InputValueError: If another process runs the study.
        """
        if not self.complete:
            check_free(self.study)

    def run(self) -> None:
        """Run what is missing, alone: the study's lease is held until the end.

        Raises:
            InputValueError: If another process runs the study, or no choice is within the limits.
            SearchFailed: If three trials in a row failed; the message has their reasons.
            EngineFailed: If the workers cannot be had.
            Exception: Whatever went wrong that is no trial's own fault (a full disk, a fault in
                ``build``). The trial does not count and is run again the next time.
        """
        self._history = History(self.study)
        try:
            for listener in self.listeners:
                listener.begun(self)
            if not self.complete:
                self.objective.check_limits()
                with hold(self.study) as lease:
                    # Nobody adds to it from now on.
                    close_interrupted(self.study)
                    note_points(self.study, self.objective.space.points)
                    self._history = History(self.study)
                    sweep(self.objective.folder, self.best)
                    self._run_missing(TrialDriver(self, self._history, lease))
            sweep(self.objective.folder, self.best)
            for listener in self.listeners:
                listener.ended(self)
        except BaseException:
            for listener in self.listeners:
                with suppress(Exception):
                    listener.stopped(self)
            raise
        finally:
            self._history = None

    def _run_missing(self, driver: TrialDriver) -> None:
        try:
            self.objective.prepare_data()
            self.engine.run(driver)
        except BaseException:
            driver.give_up()
            raise


def run_study(
    objective: BaseObjective[ChoiceT],
    trials: int,
    sampler: str | SamplerFactory = "tpe",
    seed: int = 0,
    pruner: BasePruner | None = None,
) -> Search[ChoiceT]:
    """Run a new search whose study is in memory, and give it back: the shortest way to search.

    It ends with the process. One that can be continued needs :func:`open_storage`,
    :func:`open_study` and :class:`Search`.

    Args:
        objective: Judges a trial.
        trials: How many there are in the end.
        sampler: ``tpe``, ``random`` or ``grid``, or as in :class:`Search`.
        seed: Of the sampler.
        pruner: Stops weak trials; None stops none.

    Raises:
        InputValueError: If there is no sampler of this name; and as :class:`Search`.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise InputValueError(
                f"run_study: sampler={sampler!r} is unknown; there are {', '.join(SAMPLERS)}, and "
                "classes of samplers of Optuna."
            )
        sampler = SAMPLERS[sampler]
    study = open_study(
        InMemoryStorage(),
        "study",
        objective.space.to_dict(),
        pruner or NopPruner(),
        objective.monitor,
        objective.minimise,
        objective.mode,
    )
    search = Search(study, objective, sampler, trials, seed)
    search.run()
    return search

"""A search: one study, run until it has its trials; it can be stopped at any moment."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.errors import InputValueError
from lightning_adls.search.checkpoints import drop_outdone
from lightning_adls.search.failures import SearchFailed, TrialFailed
from lightning_adls.search.lease import Lease, check_free, hold
from lightning_adls.search.listeners import Listener
from lightning_adls.search.objective import Objective
from lightning_adls.search.results import best_curve
from lightning_adls.search.samplers import SAMPLERS, SamplerFactory, make_sampler
from lightning_adls.search.space import ChoiceT
from lightning_adls.search.study import best_trial, close_interrupted, counted_trials

_MOST_FAILURES = 3


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

    Raises:
        InputValueError: If ``trials`` is below 1, or the sampler takes no seed or not this space.
    """

    study: optuna.Study
    objective: Objective[ChoiceT]
    sampler: SamplerFactory = SAMPLERS["tpe"]
    trials: int = 24
    seed: int = 0
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputValueError(f"Search: trials={self.trials} is below 1.")
        make_sampler(self.sampler, self.objective.space, self.seed)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.study.study_name

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials so far; those that were interrupted do not count."""
        return counted_trials(self.study)

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial of the highest value, the earliest of equals; None before it."""
        return best_trial(self.study)

    @property
    def curve(self) -> list[tuple[float, float]]:
        """The running best as points: number of trials, best value so far."""
        return best_curve(self.study)

    @property
    def total(self) -> int:
        """How many trials there can be."""
        return min(self.trials, self.objective.space.points)

    @property
    def complete(self) -> bool:
        """Whether the study has all its trials, or every point of its space was tried."""
        counted = self.counted
        tried = {tuple(sorted(trial.params.items())) for trial in counted}
        return len(counted) >= self.trials or len(tried) >= self.objective.space.points

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
            InputValueError: If another process runs the study.
            SearchFailed: If three trials in a row failed; the message has their reasons.
            Exception: Whatever went wrong that is no trial's own fault (a full disk, a fault in
                ``build``). The trial does not count and is run again the next time.
        """
        for listener in self.listeners:
            listener.begun(self)
        if not self.complete:
            with hold(self.study) as lease:
                close_interrupted(self.study)
                self._run_missing(lease)
        # Also what a process left behind that was killed just before.
        drop_outdone(self.study, self.objective.folder)
        for listener in self.listeners:
            listener.ended(self)

    def _run_missing(self, lease: Lease) -> None:
        failures: list[str] = []
        while not self.complete:
            trial = self._run_trial(len(self.counted), lease)
            drop_outdone(self.study, self.objective.folder)
            for listener in self.listeners:
                listener.trial_ended(self, trial)
            error = trial.user_attrs.get("error")
            failures = [*failures, error] if error else []
            if len(failures) == _MOST_FAILURES:
                raise SearchFailed(
                    f"Search: {self.name!r} stops after {_MOST_FAILURES} failed trials in a row "
                    f"({'; '.join(dict.fromkeys(failures))}); mend their cause, and the same "
                    "command goes on."
                )

    def _run_trial(self, index: int, lease: Lease) -> FrozenTrial:
        space = self.objective.space
        self.study.sampler = make_sampler(self.sampler, space, self.seed, index)
        trial = self.study.ask()
        try:
            trial.set_user_attr("index", index)  # its place among those that count
            # The same as people count, for dashboards: Optuna's number counts interrupted ones.
            trial.set_user_attr("trial", index + 1)
            value, state = self._judge(trial)
            lease.check()
            return self.study.tell(trial, value, state=state)
        except BaseException:
            # Where this cannot be stored either, the next run closes the trial.
            with suppress(Exception):
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _judge(self, trial: optuna.Trial) -> tuple[float | None, TrialState]:
        try:
            return self.objective(trial), TrialState.COMPLETE
        except optuna.TrialPruned:
            return None, TrialState.PRUNED
        except TrialFailed as failure:
            trial.set_user_attr("error", str(failure))
            return None, TrialState.FAIL


def run_study(
    study: optuna.Study,
    objective: Objective[ChoiceT],
    trials: int,
    sampler: str = "tpe",
    seed: int = 0,
) -> None:
    """Run a :class:`Search` whose sampler is ``tpe``, ``random`` or ``grid``.

    Raises:
        InputValueError: If the sampler is none of these; and as :meth:`Search.run`.
    """
    if sampler not in SAMPLERS:
        raise InputValueError(
            f"run_study: sampler={sampler!r} is unknown; there are {', '.join(SAMPLERS)}, and "
            "Search takes any sampler of Optuna."
        )
    Search(study, objective, SAMPLERS[sampler], trials, seed).run()

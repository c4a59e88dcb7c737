"""A trial where it is judged: by a worker, which knows no study."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState

from lightning_adls.engines import Channel
from lightning_adls.search.failures import TrialFailed
from lightning_adls.search.modes import Mode
from lightning_adls.search.values import rank_of

_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class Report:
    """The metric of a trial."""

    value: float
    step: int


@dataclass(frozen=True)
class ShouldPrune:
    """Whether to stop a trial after its last report."""


@dataclass(frozen=True)
class Progress:
    """The share of its budget that a trial has spent, 0 to 1."""

    share: float


@dataclass(frozen=True)
class Proposal:
    """What a worker needs to know of a trial.

    Args:
        index: Its place among those that count, from 0.
        params: What was drawn.
        best: Rank of the best trial so far (:func:`rank_of`): only a better one keeps its weights.
    """

    index: int
    params: Mapping[str, Any]
    best: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Args:
        state: Complete, pruned or failed.
        values: Of a complete one: the metric, and costs that are minimised beside it.
        attributes: What it noted; the driver stores them.
    """

    state: TrialState
    values: tuple[float, ...] | None
    attributes: Mapping[str, Any]


class JudgedTrial(FixedTrial):
    """What an objective sees of its trial.

    It suggests what was drawn, and reports go to the driver, which asks the pruner.

    Args:
        proposal: The trial.
        channel: To the driver.
    """

    def __init__(self, proposal: Proposal, channel: Channel) -> None:
        super().__init__(dict(proposal.params), proposal.index)
        self._proposal, self._channel = proposal, channel
        self._said = monotonic()
        self.set_user_attr("index", proposal.index)

    def report(self, value: float, step: int) -> None:
        """Report the metric after ``step`` percent of the budget."""
        self._channel.tell(Report(float(value), int(step)))

    def should_prune(self) -> bool:
        """Whether the pruner stops the trial after its last report."""
        return bool(self._channel.ask(ShouldPrune()))

    def progress(self, share: float) -> None:
        """Say how much of the budget is spent; not more often than anyone can see."""
        if (now := monotonic()) - self._said >= _PROGRESS_SECONDS:
            self._said = now
            self._channel.tell(Progress(share))

    def may_be_best(self, *values: float, mode: Mode = "max") -> bool:
        """Whether a trial of these values would be the best, of equals the first."""
        best = self._proposal.best
        return best is None or rank_of(values, self._proposal.index, mode) > best


def judge(objective: Any, proposal: Proposal, channel: Channel) -> Outcome:
    """Judge a trial: the call of a search to its engine.

    Args:
        objective: Called with the trial; returns its value, or a tuple of several.
        proposal: The trial.
        channel: To the driver.

    Raises:
        Exception: Whatever is no trial's own fault.
    """
    trial = JudgedTrial(proposal, channel)
    started = perf_counter()
    values: tuple[float, ...] | None = None
    state = TrialState.COMPLETE
    try:
        reached = objective(trial)
        values = tuple(map(float, reached if isinstance(reached, tuple) else (reached,)))
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except TrialFailed as failure:
        state = TrialState.FAIL
        trial.set_user_attr("error", str(failure))
    trial.set_user_attr("seconds", round(perf_counter() - started, 2))
    return Outcome(state, values, trial.user_attrs)

"""The driver of a search: it alone asks and tells the study; an engine's workers judge."""

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.engines import Call, Lost, Shared
from lightning_adls.search.checkpoints import accept, drop_outdone, offered_at, refuse
from lightning_adls.search.failures import SearchFailed
from lightning_adls.search.history import History, Point, point_of
from lightning_adls.search.judged import Outcome, Progress, Proposal, Report, ShouldPrune, judge
from lightning_adls.search.lease import Lease
from lightning_adls.search.modes import Mode
from lightning_adls.search.outcomes import EXCESS, repeated
from lightning_adls.search.pruning import report, should_prune
from lightning_adls.search.samplers import PointsSampler, make_sampler, remember
from lightning_adls.search.study import rank
from lightning_adls.search.values import rank_of

if TYPE_CHECKING:
    from lightning_adls.search.search import Search

_MOST_FAILURES = 3


@dataclass(eq=False)
class Running:
    """A trial that is being judged, or waits for one that tries the same.

    Attributes:
        index: Its place among those that count, from 0.
        trial: In the study.
        params: What it tries. The trial has them too, and copies them each time that it is asked.
        worker: Who judges it, counted from 1; None until it begins.
        share: Of its budget that is spent, 0 to 1.
        reported: What it reported, by percent of its budget.
        choice: What the space makes of its parameters.
    """

    index: int
    trial: optuna.Trial
    params: Mapping[str, Any]
    worker: int | None = None
    share: float = 0.0
    reported: dict[int, float] = field(default_factory=dict)
    choice: Any = None

    @cached_property
    def point(self) -> Point:
        """The same, to be found among others."""
        return point_of(self.params)


class TrialDriver:
    """Gives an engine the trials that a search lacks.

    Args:
        search: The search.
        history: What its study has.
        lease: Of the study; nothing is told once it is lost.
    """

    def __init__(self, search: "Search[Any]", history: History, lease: Lease) -> None:
        self._search, self._history, self._lease = search, history, lease
        self._mode: Mode = search.objective.mode
        self._shared = Shared(search.objective, search.objective.folder)
        self._calls: dict[Call, Running] = {}
        self._waiting: list[Running] = []  # for one that tries the same
        self._asked: list[Running] = []  # and are to be judged
        self._failures: list[str] = []

    @property
    def running(self) -> list[Running]:
        """The trials that are being judged, by their places."""
        return sorted(self._calls.values(), key=lambda running: running.index)

    def next(self) -> Call | None:
        """The next trial that has to be judged.

        One that repeats another is not, nor one that is known to cost too much.
        """
        if self._asked:
            return self._call(self._asked.pop(0))
        while not self._enough():
            running = self._ask()
            if (twin := self._history.twin(running.point)) is not None:
                self._finish(running, repeated(running.index, twin))
            elif any(running.point == other.point for other in self._calls.values()):
                self._waiting.append(running)
            elif (refused := self._search.objective.refused(running.choice)) is not None:
                self._finish(running, refused)
            else:
                return self._call(running)
        return None

    def _begun(self) -> list[Running]:
        return [*self._calls.values(), *self._waiting, *self._asked]

    def _enough(self) -> bool:
        begun = self._begun()
        if len(self._history.trials) + len(begun) >= self._search.trials:
            return True
        points = self._search.objective.space.points
        if len(self._history.trials) + len(begun) < points:
            return False
        tried = {point_of(trial.params) for trial in self._history.trials}
        return len(tried | {running.point for running in begun}) >= points

    def _ask(self) -> Running:
        search = self._search
        taken = {running.index for running in self._begun()}
        index, space = self._history.free_place(taken), search.objective.space
        sampler = make_sampler(search.sampler, space, search.seed, index)
        remember(sampler, search.study.sampler)
        search.study.sampler = sampler
        proposed = self._suggest(index)
        if isinstance(sampler, PointsSampler):
            return proposed
        smaller = search.objective.shrunk(proposed.choice, random.Random(f"{search.seed}/{index}"))
        if smaller is None:
            return proposed
        # What a trial has chosen cannot be changed; another one is given what is tried instead.
        self._close(proposed)
        search.study.enqueue_trial(dict(smaller))
        return self._suggest(index)

    def _suggest(self, index: int) -> Running:
        """A trial of the study, for a place among those that count."""
        self._lease.check()
        trial = self._search.study.ask()
        try:
            trial.set_user_attr("index", index)  # its place among those that count
            # The same as people count, for dashboards: Optuna's number counts interrupted ones.
            trial.set_user_attr("trial", index + 1)
            choice = self._search.objective.space.suggest(trial)
        except BaseException:
            self._close(Running(index, trial, {}))
            raise
        return Running(index, trial, trial.params, choice=choice)

    def _call(self, running: Running) -> Call:
        best = self._history.best
        proposal = Proposal(
            running.index,
            running.params,
            None if best is None else rank(best, self._mode),
        )
        name = f"trial {running.index + 1} of {self._search.name}"
        leaves = [offered_at(self._search.objective.folder, running.index)]
        call = Call(name, judge, self._shared, proposal, leaves=leaves)
        self._calls[call] = running
        return call

    def began(self, call: Call, worker: int) -> None:
        """Note who judges it."""
        self._calls[call].worker = worker
        self._show(self._calls[call])

    def heard(self, call: Call, message: Any) -> Any:
        """Store a report and ask the pruner, or show how far a trial is."""
        running = self._calls[call]
        if isinstance(message, Progress):
            running.share = message.share
            self._show(running)
            return None
        if isinstance(message, Report):
            # What a worker reported that died, the next one reports again, bit for bit.
            if message.step not in running.reported:
                running.reported[message.step] = message.value
                self._lease.check()
                report(running.trial, message.value, message.step)
            return None
        assert isinstance(message, ShouldPrune)
        return should_prune(running.trial)

    def _show(self, running: Running) -> None:
        for listener in self._search.listeners:
            listener.trial_moved(self._search, running)

    def ended(self, call: Call, result: Any) -> None:
        """Store what a trial came to, and what follows for those that try the same."""
        running = self._calls.pop(call)
        outcome = result
        if isinstance(result, Lost):
            reason = f"its process died each time that it was tried: {result.reason}"
            outcome = Outcome(TrialState.FAIL, None, {"error": reason, "seconds": 0.0})
        ended = self._finish(running, outcome)
        waiting = [other for other in self._waiting if other.point == running.point]
        for other in sorted(waiting, key=lambda other: other.index):
            self._waiting.remove(other)
            if ended.state == TrialState.FAIL:
                self._asked.append(other)  # it may do better
            else:
                self._finish(other, repeated(other.index, ended))

    def give_up(self) -> None:
        """Close what was begun: it does not count, and is run again the next time."""
        for running in self._begun():
            self._close(running)

    def _finish(self, running: Running, outcome: Outcome) -> FrozenTrial:
        search, trial, before = self._search, running.trial, self._history.best
        folder = search.objective.folder
        try:
            for name, value in outcome.attributes.items():
                if name not in trial.user_attrs:
                    trial.set_user_attr(name, value)
            for name, excess in outcome.attributes.get(EXCESS, {}).items():
                trial.set_constraint(name, excess)
            best = self._would_be_best(running.index, outcome)
            if best and (kept := accept(folder, running.index)) is not None:
                trial.set_user_attr("checkpoint", kept)
            ended = self._lease.tell(trial, outcome.values, outcome.state)
        except BaseException:
            self._close(running)
            raise
        refuse(folder, running.index)
        self._history.add(ended)
        drop_outdone(folder, before, self._history.best)
        for listener in search.listeners:
            listener.trial_ended(search, ended)
        self._count_failures(ended.user_attrs.get("error"))
        return ended

    def _would_be_best(self, index: int, outcome: Outcome) -> bool:
        if outcome.state != TrialState.COMPLETE or outcome.values is None:
            return False
        best = self._history.best
        found = rank_of(outcome.values, index, self._mode)
        return best is None or found > rank(best, self._mode)

    def _close(self, running: Running) -> None:
        # Where this cannot be stored either, the next run closes the trial.
        with suppress(Exception):
            self._search.study.tell(running.trial, state=TrialState.FAIL, skip_if_finished=True)
        with suppress(OSError):
            refuse(self._search.objective.folder, running.index)

    def _count_failures(self, error: str | None) -> None:
        self._failures = [*self._failures, error] if error else []
        if len(self._failures) == _MOST_FAILURES:
            raise SearchFailed(
                f"Search: {self._search.name!r} stops after {_MOST_FAILURES} failed trials in a "
                f"row ({'; '.join(dict.fromkeys(self._failures))}); mend their cause, and the same "
                "command goes on."
            )

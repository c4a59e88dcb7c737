"""The searches of Lab 3: what they are called, what they try, and how their studies are opened."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from rich.console import Console

from lightning_adls import search
from lightning_adls.classifier import TextClassifier
from lightning_adls.engines import Engine
from lightning_adls.labs.examples import with_example
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.one_shot import OneShot, SharedWeights, best_of
from lightning_adls.labs.planned import Formats, Planning, planned, proposals
from lightning_adls.labs.searching import add
from lightning_adls.labs.strategies import SCORES, SEARCHES, Strategy, searches_of, study_of
from lightning_adls.report import Row
from lightning_adls.search import (
    Budget,
    FormatSpace,
    Limits,
    Objective,
    ProposedSampler,
    SamplerFactory,
    Search,
)
from lightning_adls.search.listeners import Listener
from lightning_adls.search.recipe_costs import RecipeCosts
from lightning_adls.search.study import note_points
from lightning_adls.transforms import Quantize

_PLAN, _ONE_SHOT = "plan", "one_shot"


@dataclass(frozen=True)
class FormatSearches:
    """The searches of a run of Lab 3.

    Args:
        lab: The run.
        store: Where the studies are.
        shared: Whether runs share it.
        spaces: What may be chosen now, by the name of the study.
        layers: Names of the linear layers that are searched.
        build: Makes a fresh module from a recipe.
        budget: What each trial may spend.
        sampler: What proposes trials, where nothing is planned.
        pruner: What stops weak trials.
        monitoring: What trials are compared by.
        trials: Of each search.
        trained: The studies whose trials train.
        engine: Who judges the trials.
        strategy: What the trials try.
        bits: Most bits per weight; None for any number.
        minimise: Costs that are further objectives beside what trials are compared by; not of
            searches that try what was chosen beforehand.
        planning: What a plan may spend.
        one_shot: What one training for all recipes may spend.
        console: For what plans are expected to do.
        listeners: Are told of each trial.

    Attributes:
        searches: Those that were begun, by name, in the order of the studies.
    """

    lab: ModelRun
    store: BaseStorage
    shared: bool
    spaces: Mapping[str, FormatSpace]
    layers: Sequence[str]
    build: Callable[[Quantize], TextClassifier]
    budget: Budget
    sampler: SamplerFactory
    pruner: BasePruner
    monitoring: Monitoring
    trials: int
    trained: Sequence[str]
    engine: Engine
    strategy: Strategy
    bits: float | None
    minimise: Sequence[str]
    planning: Planning
    one_shot: OneShot
    console: Console
    listeners: list[Listener] = field(default_factory=list)
    searches: dict[str, Search[Quantize]] = field(default_factory=dict)

    def open_begun(self, only: Sequence[str]) -> None:
        """Open what was begun earlier, and refuse early what could not be run.

        Searches that are not run now are opened as they were begun, whatever is asked for now.

        Args:
            only: The studies to run now.
        """
        begun = search.study_names(self.store)
        for study in self.spaces:
            for strategy in SEARCHES:
                for name in searches_of(study, strategy):
                    if self._stored_as(name) not in begun:
                        continue
                    if study in only and strategy == self.strategy:
                        self._open(name).check_free()
                    else:
                        self._open_as_begun(name)

    def of(self, study: str) -> Iterator[Search[Quantize]]:
        """The searches of a study, to be run one after the other."""
        judged, finished = searches_of(study, _ONE_SHOT)
        for name in searches_of(study, self.strategy):
            found = self.searches.get(name) or self._open(name)
            if self.strategy == _PLAN and self.spaces[study].points > 1:
                self._propose(found, proposals(self._plans(study)))
            if name == judged:
                self._train_for_all(study)
                found.trials = self.one_shot.evaluations
            if name == finished:
                best = best_of(
                    self.searches[judged].counted, self.one_shot.finish, self.monitoring.mode
                )
                if not best:
                    continue  # none of its trials was within the budget
                self._propose(found, best)
            yield found

    def about(self, name: str) -> Row:
        """What the rows of a search say of it."""
        study, strategy = study_of(name, [*self.spaces])
        begins = f"{strategy}/{study}/"
        before = [seconds for step, seconds in self.lab.seconds.items() if step.startswith(begins)]
        return {"strategy": strategy, "seconds_before": round(sum(before), 2)}

    def _train_for_all(self, study: str) -> None:
        """One training for all recipes of a study: a step, which is done once."""
        step = self._shared_step(study)
        if step not in self.lab.rows:
            self.console.print(f"{study}: one training for all recipes ...", highlight=False)
        self.lab.step(
            step,
            lambda: self.one_shot.train(
                self.lab.task,
                self.spaces[study],
                self.lab.curves,
                step,
                self.lab.checkpoint(step),
            ),
        )

    @staticmethod
    def _shared_step(study: str) -> str:
        return f"{_ONE_SHOT}/{study}/shared"

    def _plans(self, study: str) -> Row:
        """The recipes of a study: a step, which is done once."""
        step = f"{_PLAN}/{study}/{self.trials}"  # all else is in the settings of the search
        if step not in self.lab.rows:
            self.console.print(f"{study}: scoring its formats ...", highlight=False)
        row = self.lab.step(
            step,
            lambda: planned(
                self.lab.task,
                Formats(self.spaces[study], self.layers),
                bits=self.bits,
                trials=self.trials,
                planning=self.planning,
                kept=self.lab.folder / SCORES,
            ),
        )
        self.console.print(f"{study}: {row['says']}", highlight=False, soft_wrap=True)
        return row

    def _propose(self, found: Search[Quantize], points: Sequence[Mapping[str, Any]]) -> None:
        note_points(found.study, len(points))
        found.sampler, found.trials = partial(ProposedSampler, points), len(points)

    def _stored_as(self, name: str) -> str:
        return f"lab3/{self.lab.name}/{name}" if self.shared else name

    def _open(self, name: str) -> Search[Quantize]:
        """Open a search by what is asked for now.

        Raises:
            ValueError: If it was begun with other settings.
        """
        study, strategy = study_of(name, [*self.spaces])
        settings: Row = {
            "space": self.spaces[study].to_dict(),
            "train": study in self.trained,
            **self.lab.settings,
        }
        if self.bits is not None:
            settings["budget_bits"] = self.bits
        if self.minimise:
            settings["minimise"] = list(self.minimise)
        if strategy == _PLAN:
            settings["planning"] = vars(self.planning)
        if strategy == _ONE_SHOT:
            settings["one_shot"] = {**asdict(self.one_shot), "evaluations": None, "finish": None}
        # What was chosen beforehand is tried to its end.
        chosen = name in (*searches_of(study, _PLAN), searches_of(study, _ONE_SHOT)[1])
        pruner = NopPruner() if chosen else self.pruner
        minimise = [] if chosen else self.minimise
        opened = search.open_study(
            self.store,
            self._stored_as(name),
            settings,
            pruner,
            minimise=minimise,
            **self.monitoring.for_study,
        )
        trained = study in self.trained
        return self._add(name, opened, self.spaces[study], trained, self.bits, minimise)

    def _open_as_begun(self, name: str) -> None:
        stored = optuna.load_study(study_name=self._stored_as(name), storage=self.store)
        settings = search.settings_of(stored)
        space, bits = FormatSpace.from_dict(settings["space"]), settings.get("budget_bits")
        minimise = settings.get("minimise", [])[: len(stored.directions) - 1]
        self._add(name, stored, space, settings["train"], bits, minimise)

    def _add(
        self,
        name: str,
        opened: optuna.Study,
        space: FormatSpace,
        train: bool,
        bits: float | None,
        minimise: Sequence[str],
    ) -> Search[Quantize]:
        task = self.lab.task
        study, strategy = study_of(name, [*self.spaces])
        build: Callable[[Quantize], TextClassifier] = self.build
        if strategy == _ONE_SHOT:
            build = SharedWeights(task, space, self.lab.checkpoint(self._shared_step(study)))
        if "bit_operations" in minimise:
            build = with_example(build, task.texts.max_length)
        objective = Objective(
            space,
            build,
            task.texts,
            self.budget,
            self.lab.folder / name,
            task.seed,
            train and name != searches_of(study, _ONE_SHOT)[0],
            limits=None if bits is None else Limits(bits_per_weight=bits),
            foresee=None if bits is None else RecipeCosts(task.network),
            repair=bits is not None,
            minimise=minimise,
            callbacks=task.callbacks,
            loggers=task.loggers,
            **self.monitoring.for_objective,
        )
        found = Search(
            opened,
            objective,
            self.sampler,
            self.trials,
            task.seed,
            self.listeners,
            self.engine,
        )
        order = [n for study in self.spaces for each in SEARCHES for n in searches_of(study, each)]
        add(self.searches, name, found, order)
        return found

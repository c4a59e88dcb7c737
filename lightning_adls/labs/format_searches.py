"""The searches of Lab 3: what they are called, what they try, and how their studies are opened."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.pruners import NopPruner
from rich.console import Console

from lightning_adls import search
from lightning_adls.classifier import TextClassifier
from lightning_adls.engines import Engine
from lightning_adls.labs.examples import with_example
from lightning_adls.labs.format_search_parts import Choosing, Judging, Proposing, Stored
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.one_shot import SharedWeights, best_of
from lightning_adls.labs.planned import Formats, planned, proposals
from lightning_adls.labs.searching import add
from lightning_adls.labs.strategies import SCORES, SEARCHES, searches_of, study_of
from lightning_adls.report import Row
from lightning_adls.search import (
    FormatSpace,
    Limits,
    Objective,
    ProposedSampler,
    Search,
)
from lightning_adls.search.listeners import Listener
from lightning_adls.search.recipe_costs import RecipeCosts
from lightning_adls.search.study import note_proposals
from lightning_adls.transforms import Quantize

_PLAN, _ONE_SHOT = "plan", "one_shot"


@dataclass(frozen=True)
class FormatSearches:
    """The searches of a run of Lab 3.

    Args:
        lab: The run.
        stored: Where the studies are.
        choosing: What may be chosen now.
        proposing: What the trials try.
        judging: What becomes of a recipe.
        engine: Who judges the trials.
        console: For what plans are expected to do.
        listeners: Are told of each trial.

    Attributes:
        searches: Those that were begun, by name, in the order of the studies.
    """

    lab: ModelRun
    stored: Stored
    choosing: Choosing
    proposing: Proposing
    judging: Judging
    engine: Engine
    console: Console
    listeners: list[Listener] = field(default_factory=list)
    searches: dict[str, Search[Quantize]] = field(default_factory=dict)

    def open_begun(self, only: Sequence[str]) -> None:
        """Open what was begun earlier, and refuse early what could not be run.

        Searches that are not run now are opened as they were begun, whatever is asked for now.

        Args:
            only: The studies to run now.
        """
        begun = search.study_names(self.stored.storage)
        for study in self.choosing.spaces:
            for strategy in SEARCHES:
                for name in searches_of(study, strategy):
                    if self.stored.name_of(name) not in begun:
                        continue
                    if study in only and strategy == self.proposing.strategy:
                        self._open(name).check_free()
                    else:
                        self._open_as_begun(name)

    def of(self, study: str) -> Iterator[Search[Quantize]]:
        """The searches of a study, to be run one after the other."""
        judged, finished = searches_of(study, _ONE_SHOT)
        for name in searches_of(study, self.proposing.strategy):
            found = self.searches.get(name) or self._open(name)
            if self.proposing.strategy == _PLAN and self.choosing.spaces[study].points > 1:
                self._propose(found, proposals(self._plans(study)))
            if name == judged:
                self._train_for_all(study)
                found.trials = self.proposing.one_shot.evaluations
            if name == finished:
                best = best_of(
                    self.searches[judged].counted,
                    self.proposing.one_shot.finish,
                    self.judging.monitoring.mode,
                )
                if not best:
                    continue  # none of its trials was within the budget
                self._propose(found, best)
            yield found

    def about(self, name: str) -> Row:
        """What the rows of a search say of it."""
        study, strategy = study_of(name, [*self.choosing.spaces])
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
            lambda: self.proposing.one_shot.train(
                self.lab.task,
                self.choosing.spaces[study],
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
        step = (
            f"{_PLAN}/{study}/{self.proposing.trials}"  # all else is in the settings of the search
        )
        if step not in self.lab.rows:
            self.console.print(f"{study}: scoring its formats ...", highlight=False)
        row = self.lab.step(
            step,
            lambda: planned(
                self.lab.task,
                Formats(self.choosing.spaces[study], self.choosing.layers),
                bits=self.choosing.bits,
                trials=self.proposing.trials,
                planning=self.proposing.planning,
                kept=self.lab.folder / SCORES,
            ),
        )
        self.console.print(f"{study}: {row['says']}", highlight=False, soft_wrap=True)
        return row

    def _propose(self, found: Search[Quantize], points: Sequence[Mapping[str, Any]]) -> None:
        note_proposals(found.study, len(points))
        found.sampler, found.trials = partial(ProposedSampler, points), len(points)

    def _open(self, name: str) -> Search[Quantize]:
        """Open a search by what is asked for now.

        Raises:
            ValueError: If it was begun with other settings.
        """
        study, strategy = study_of(name, [*self.choosing.spaces])
        settings: Row = {
            "space": self.choosing.spaces[study].to_dict(),
            "train": study in self.judging.trained,
            **self.lab.settings,
        }
        if self.choosing.bits is not None:
            settings["budget_bits"] = self.choosing.bits
        if self.judging.minimise:
            settings["minimise"] = list(self.judging.minimise)
        if strategy == _PLAN:
            settings["planning"] = vars(self.proposing.planning)
        if strategy == _ONE_SHOT:
            settings["one_shot"] = {
                **asdict(self.proposing.one_shot),
                "evaluations": None,
                "finish": None,
            }
        # What was chosen beforehand is tried to its end.
        chosen = name in (*searches_of(study, _PLAN), searches_of(study, _ONE_SHOT)[1])
        pruner = NopPruner() if chosen else self.proposing.pruner
        minimise = [] if chosen else self.judging.minimise
        opened = search.open_study(
            self.stored.storage,
            self.stored.name_of(name),
            settings,
            pruner,
            minimise=minimise,
            **self.judging.monitoring.for_study,
        )
        trained = study in self.judging.trained
        return self._add(
            name, opened, self.choosing.spaces[study], trained, self.choosing.bits, minimise
        )

    def _open_as_begun(self, name: str) -> None:
        stored = optuna.load_study(
            study_name=self.stored.name_of(name), storage=self.stored.storage
        )
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
        study, strategy = study_of(name, [*self.choosing.spaces])
        build: Callable[[Quantize], TextClassifier] = self.judging.build
        if strategy == _ONE_SHOT:
            build = SharedWeights(task, space, self.lab.checkpoint(self._shared_step(study)))
        if "bit_operations" in minimise:
            build = with_example(build, task.texts.max_length)
        objective = Objective(
            space,
            build,
            task.texts,
            self.judging.budget,
            self.lab.folder / name,
            task.seed,
            train and name != searches_of(study, _ONE_SHOT)[0],
            limits=None if bits is None else Limits(bits_per_weight=bits),
            foresee=None if bits is None else RecipeCosts(task.network),
            repair=bits is not None,
            minimise=minimise,
            callbacks=task.callbacks,
            loggers=task.loggers,
            **self.judging.monitoring.for_objective,
        )
        found = Search(
            opened,
            objective,
            self.proposing.sampler,
            self.proposing.trials,
            task.seed,
            self.listeners,
            self.engine,
        )
        order = [
            n
            for study in self.choosing.spaces
            for each in SEARCHES
            for n in searches_of(study, each)
        ]
        add(self.searches, name, found, order)
        return found

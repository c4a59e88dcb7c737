"""Opening and running studies in one line each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import BaseTrial

from lightning_adls import search
from lightning_adls.search import BaseObjective, Listener, Objective, SamplerFactory, Search
from lightning_adls.search.judged import JudgedTrial
from lightning_adls.search.samplers import SAMPLERS
from lightning_adls.transforms import Quantize

Recipes = Objective[Quantize]
Trials = list[tuple[dict[str, Any], float | None]]


def study_of(
    where: str | Path, fingerprint: Any = None, pruner: optuna.pruners.BasePruner | None = None
) -> optuna.Study:
    with search.open_storage(where) as storage:
        return search.open_study(
            storage, "study", fingerprint or {}, pruner or optuna.pruners.NopPruner()
        )


def run(
    study: optuna.Study,
    objective: Any,  # an Objective, or what stands in for one
    trials: int,
    sampler: str | SamplerFactory = "tpe",
    listeners: Sequence[Listener] = (),
) -> Trials:
    """Run a search; the parameters and the value of each of its trials."""
    factory = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    Search(study, objective, factory, trials, 0, listeners).run()
    return [(t.params, t.value) for t in search.counted_trials(study)]


class Numbers:
    """A space of the numbers 0 to 9, which are their own choices."""

    points = 10

    def suggest(self, trial: BaseTrial) -> int:
        return int(trial.suggest_categorical("number", tuple(range(10))))

    def grid(self) -> dict[str, list[int]]:
        return {"number": list(range(10))}

    def read(self, stored: Any) -> int:
        return int(stored)

    def to_dict(self) -> dict[str, int]:
        return {"numbers": 10}


class Plain(BaseObjective[Any]):
    """An objective without a model: what a search needs of one."""

    def __init__(self, folder: Path, value: Any = float) -> None:
        self.space = Numbers()
        self.folder = folder
        self.value = value

    def __call__(self, trial: JudgedTrial) -> float:
        return float(self.value(self.space.suggest(trial)))

"""Studies that can be stopped at any moment and continued by the same command."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.errors import InputError
from lightning_adls.locks import exclusive
from lightning_adls.search.objective import Objective, TrialFailed
from lightning_adls.search.space import Space
from lightning_adls.settings import refuse_changes

SAMPLERS = ("tpe", "random", "grid")
_FINGERPRINT = "fingerprint"


def make_sampler(name: str, space: Space[Any], seed: int, startup_trials: int = 10) -> BaseSampler:
    """A sampler by its name.

    Args:
        name: ``tpe``, ``random`` or ``grid``.
        space: What it samples.
        seed: Of the sampler.
        startup_trials: First trials that ``tpe`` draws as ``random`` would, to learn from. With no
            more trials than these the two are the same.

    Raises:
        ValueError: If the name is unknown, or ``grid`` cannot enumerate the space.
    """
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=False)
    if name == "grid":
        return _Grid(space.grid(), seed)
    raise InputError(f"make_sampler: sampler={name!r} is unknown; there are {', '.join(SAMPLERS)}.")


class _Grid(BaseSampler):
    """Every point of a grid once, in an order of the seed.

    Optuna's own GridSampler takes the point of an interrupted trial for tried, and leaves it out.
    """

    def __init__(self, grid: Mapping[str, list[Any]], seed: int) -> None:
        points = list(product(*grid.values()))
        order = np.random.default_rng(seed).permutation(len(points))
        self._points = [dict(zip(grid, points[place], strict=True)) for place in order]
        self._point: dict[str, Any] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        tried = [other.params for other in _ended_trials(study)]
        untried = (point for point in self._points if point not in tried)
        self._point = next(untried, self._points[0])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return self._point[name]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


@contextmanager
def open_storage(where: str | Path) -> Iterator[BaseStorage]:
    """A storage by URL (``postgresql://...``), or a journal file that this process alone writes.

    A journal file is made whole first: a process killed while it wrote leaves a torn last line,
    which the next append would spoil, and a lock that nobody releases.

    Raises:
        ValueError: If another process has the journal file open.
    """
    if "://" in str(where):
        yield optuna.storages.get_storage(str(where))
        return
    path = Path(where)
    with exclusive(f"{path}.owner"):
        path.touch()
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        Path(f"{path}.lock").unlink(missing_ok=True)
        yield JournalStorage(JournalFileBackend(str(path)))


def open_study(
    storage: BaseStorage,
    name: str,
    fingerprint: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Create a study, or continue it if it is the same search.

    Args:
        storage: From :func:`open_storage`.
        name: Of the study within its storage.
        fingerprint: Everything that decides what a trial's value means: the space, the data, the
            budget, the seed. Values that JSON can hold.
        pruner: Decides which trials stop early.

    Raises:
        ValueError: If the study exists with another fingerprint; the message says what differs.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    now = json.loads(json.dumps(fingerprint))
    before = study.user_attrs.get(_FINGERPRINT)
    if before is None:
        study.set_user_attr(_FINGERPRINT, now)
    else:
        refuse_changes("open_study", f"the study {name!r}", before, now)
    return study


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended by themselves, in order: those that were interrupted do not count."""
    return sorted(_ended_trials(study), key=lambda trial: trial.user_attrs["index"])


def _ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return [t for t in trials if t.state != TrialState.FAIL or "error" in t.user_attrs]


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the highest value, the earliest of equals; None if none completed."""
    # By state: Optuna gives a pruned trial its last report as its value.
    complete = [t for t in counted_trials(study) if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: cast(float, trial.value)) if complete else None


def run_study(
    study: optuna.Study,
    objective: Objective[Any],
    trials: int,
    sampler: str,
    seed: int,
    after_trial: Callable[[optuna.Study], None] = lambda study: None,
    startup_trials: int = 10,
) -> None:
    """Run the study until it has ``trials`` trials, or every point of its space was tried.

    Before each trial the sampler is made anew with a seed of its own. So a search that was
    interrupted proposes what it would have proposed without the interruption.

    Args:
        study: From :func:`open_study`; trials that it has already are not run again.
        objective: Judges a trial.
        trials: How many trials the study shall have in the end, pruned and failed ones included.
        sampler: ``tpe``, ``random`` or ``grid``.
        seed: Of the sampler.
        after_trial: Called when a trial has ended and was stored.
        startup_trials: See :func:`make_sampler`.
    """
    _drop_interrupted(study)
    while (index := len(counted_trials(study))) < trials:
        if _tried_points(study) >= objective.space.points:
            return
        study.sampler = make_sampler(
            sampler, objective.space, _seed_of(sampler, seed, index), startup_trials
        )
        study.optimize(_Indexed(objective, index), n_trials=1, catch=(TrialFailed,))
        _drop_outdone_checkpoints(study, objective.folder)
        after_trial(study)


def _seed_of(sampler: str, seed: int, index: int) -> int:
    if sampler == "grid":
        return seed  # the order of its points
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class _Indexed:
    """An objective that first notes the trial's place among those that count."""

    def __init__(self, objective: Objective[Any], index: int) -> None:
        self.objective = objective
        self.index = index

    def __call__(self, trial: optuna.Trial) -> float:
        trial.set_user_attr("index", self.index)
        return self.objective(trial)


def _drop_interrupted(study: optuna.Study) -> None:
    """Close trials whose process is gone: a journal has no heartbeat to tell."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _tried_points(study: optuna.Study) -> int:
    return len({tuple(sorted(trial.params.items())) for trial in counted_trials(study)})


def _drop_outdone_checkpoints(study: optuna.Study, folder: Path) -> None:
    best = best_trial(study)
    for trial in counted_trials(study):
        name = trial.user_attrs.get("checkpoint")
        if name is not None and (best is None or trial.number != best.number):
            (folder / name).unlink(missing_ok=True)

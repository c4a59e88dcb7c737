"""Studies that can be stopped at any moment and continued by the same command."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.search.objective import Objective, TrialFailed
from lightning_adls.search.space import Space

SAMPLERS = ("tpe", "random", "grid")
_FINGERPRINT = "fingerprint"


def make_sampler(name: str, space: Space, seed: int) -> BaseSampler:
    """A sampler by its name.

    Raises:
        ValueError: If the name is unknown, or ``grid`` cannot enumerate the space.
    """
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=False)
    if name == "grid":
        return GridSampler(space.grid(), seed=seed)
    raise ValueError(f"make_sampler: sampler={name!r} is unknown; there are {', '.join(SAMPLERS)}.")


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
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"open_storage: {path} belongs to a search that is running; wait for it to end."
            ) from error
        file.truncate(path.read_bytes().rfind(b"\n") + 1)
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
    elif before != now:
        changes = "; ".join(_differences(before, now))
        raise ValueError(
            f"Study {name!r} was begun with other settings: {changes}. "
            "Restore them, or name another run."
        )
    return study


def _differences(before: Any, now: Any, at: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in dict.fromkeys([*before, *now])
            for difference in _differences(
                before.get(key), now.get(key), f"{at}.{key}" if at else str(key)
            )
        ]
    return [] if before == now else [f"{at} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended by themselves, in order: those that were interrupted do not count."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    ended = [t for t in trials if t.state != TrialState.FAIL or "error" in t.user_attrs]
    return sorted(ended, key=lambda trial: trial.user_attrs["index"])


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the highest value, the earliest of equals; None if none completed."""
    # By state: Optuna gives a pruned trial its last report as its value.
    complete = [t for t in counted_trials(study) if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: cast(float, trial.value)) if complete else None


def run_study(
    study: optuna.Study,
    objective: Objective,
    trials: int,
    sampler: str,
    seed: int,
    after_trial: Callable[[optuna.Study], None] = lambda study: None,
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
    """
    _drop_interrupted(study)
    while (index := len(counted_trials(study))) < trials:
        if _tried_points(study) >= objective.space.points:
            return
        study.sampler = make_sampler(sampler, objective.space, _seed_of(sampler, seed, index))
        study.optimize(_Indexed(objective, index), n_trials=1, catch=(TrialFailed,))
        _drop_outdone_checkpoints(study, objective.folder)
        after_trial(study)


def _seed_of(sampler: str, seed: int, index: int) -> int:
    if sampler == "grid":
        return seed  # it numbers its points in an order of its seed, and notes the numbers
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class _Indexed:
    """An objective that first notes the trial's place among those that count."""

    def __init__(self, objective: Objective, index: int) -> None:
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

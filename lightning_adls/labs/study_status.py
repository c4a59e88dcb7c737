"""How far the studies of a run are."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_adls.labs.strategies import searches_of, trials_of
from lightning_adls.remaining import spoken
from lightning_adls.search.values import rank_of, reports_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from lightning_adls.search.lease import Claim
    from lightning_adls.search.modes import Mode


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment.

    Args:
        name: Within its run.
        total: How many trials it will have.
        trials: That have ended and count, by their places.
        running: That have begun and not ended.
        holder: The process that runs the study, None if there is none.
        mode: Whether high or low values are good.
    """

    name: str
    total: int
    trials: Sequence["FrozenTrial"] = ()
    running: Sequence["FrozenTrial"] = ()
    holder: "Claim | None" = None
    mode: "Mode" = "max"

    @property
    def done(self) -> int:
        """How many trials have ended."""
        return len(self.trials)

    @property
    def pruned(self) -> int:
        """How many of them were stopped early."""
        return sum(trial.state.name == "PRUNED" for trial in self.trials)

    @property
    def failed(self) -> int:
        """How many of them failed by themselves."""
        return sum("error" in trial.user_attrs for trial in self.trials)

    @property
    def best(self) -> str:
        """Value and place of the best complete trial."""
        complete = [trial for trial in self.trials if trial.state.name == "COMPLETE"]
        if not complete:
            return "none complete"
        best = max(complete, key=lambda t: rank_of(t.values, _place(t), self.mode))
        return f"{best.values[0]:.4f} trial {_place(best)}"

    @property
    def state(self) -> str:
        """In a word."""
        if self.holder is not None:
            return "running"
        if self.done >= self.total:
            return "complete"
        return "stopped" if self.trials or self.running else "not begun"

    def run_by(self, machine: str, pid: int) -> bool:
        """Whether this process runs it."""
        by = self.holder
        return by is not None and by["machine"] == machine and by["pid"] == pid

    @property
    def now(self) -> str:
        """Which trials have begun and not ended, and who runs them."""
        trials = ", ".join(map(_begun, self.running))
        if self.holder is None:
            return f"stopped, and run again by the same command: {trials}" if trials else ""
        heard = spoken(max(0.0, time.time() - self.holder["time"]))
        who = f"process {self.holder['pid']} on {self.holder['host']}"
        return f"{who}, heard of {heard} ago: {trials or 'between two trials'}"

    def failures(self) -> Iterator[str]:
        """A line for each reason."""
        reasons: dict[str, list[str]] = {}
        for trial in self.trials:
            if error := trial.user_attrs.get("error"):
                reasons.setdefault(" ".join(error.split()), []).append(str(_place(trial)))
        for reason, places in reasons.items():
            word = "trial" if len(places) == 1 else "trials"
            yield f"  {self.name} {word} {', '.join(places)} failed: {reason}"


def _place(trial: "FrozenTrial") -> int:
    """As people count."""
    place: int = trial.user_attrs["index"] + 1
    return place


def _begun(trial: "FrozenTrial") -> str:
    reported = reports_of(trial)
    last = f" ({reported[max(reported)]:.4f} at {max(reported)}%)" if reported else ""
    return f"trial {_place(trial)}{last}"


def studies_of(
    lab: str, run: str, config: Mapping[str, Any], storage: str | Path
) -> list[StudyStatus]:
    """The studies of a run: those that it will have, and others that were begun earlier.

    Args:
        lab: Name of the lab.
        run: Name of the run.
        config: Its arguments; empty before it was begun.
        storage: URL, or path of the journal file.

    Raises:
        InputValueError: If the storage cannot be read.
    """
    if lab not in ("lab2", "lab3") or not config:
        return []
    import optuna
    from optuna.trial import TrialState

    from lightning_adls.search.lease import holder
    from lightning_adls.search.modes import mode_of
    from lightning_adls.search.reading import read_storage
    from lightning_adls.search.study import counted_trials, total_trials

    stored, prefix = read_storage(storage), f"{lab}/{run}/" if "://" in str(storage) else ""
    names = optuna.get_all_study_names(stored)
    begun = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    found = []
    for name in _expected(lab, config, begun):
        trials = trials_of(name, config) if lab == "lab3" else int(config["trials"])
        if name not in begun:
            found.append(StudyStatus(name, trials))
            continue
        study = optuna.load_study(study_name=prefix + name, storage=stored)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        running = [trial for trial in running if "index" in trial.user_attrs]
        total = total_trials(study, trials)
        counted, mode = counted_trials(study), mode_of(study)
        found.append(StudyStatus(name, total, counted, running, holder(study), mode))
    return found


def _expected(lab: str, config: Mapping[str, Any], begun: Sequence[str]) -> list[str]:
    if lab == "lab3":
        studies, strategy = config["only"] or config["studies"], config.get("strategy", "per_layer")
        names = [name for study in studies for name in searches_of(study, strategy)]
    else:
        samplers, seeds = config["only"] or config["samplers"], config["seeds"]
        names = [f"plain/{sampler}/{seed}" for sampler, seed in product(samplers, seeds)]
        for kind in ("aware", "aware_retrained"):
            later = [name for name in begun if name.startswith(f"{kind}/")]
            # Which sampler it will be is not known before.
            names += later or [f"{kind}/.../{seed}" for seed in seeds]
    return [*names, *(name for name in begun if name not in names)]

"""The weights of a study's best model: one file, in the folder of the process that trained it."""

from pathlib import Path

import lightning as L
import optuna
from optuna.trial import TrialState

from lightning_adls.search.study import best_trial, counted_trials
from lightning_adls.weights import save_weights


def keep_best(folder: Path, trial: optuna.Trial, module: L.LightningModule, value: float) -> None:
    """Keep the weights of a trial that is better than all before it; it is about to complete."""
    earlier = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if any(other.value is not None and other.value >= value for other in earlier):
        return
    name = f"trial-{trial.user_attrs['index'] + 1:03d}.ckpt"
    save_weights(module, folder / name)
    trial.set_user_attr("checkpoint", name)


def drop_outdone(study: optuna.Study, folder: Path) -> None:
    """Remove the weights of trials that a later one outdid."""
    best = best_trial(study)
    for trial in counted_trials(study):
        name = trial.user_attrs.get("checkpoint")
        if name is not None and (best is None or trial.number != best.number):
            (folder / name).unlink(missing_ok=True)

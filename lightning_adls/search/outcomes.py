"""What a trial came to, taken over from one that tried the same."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.transforms.cost import COSTS

_TAKEN_OVER = ("choice", *COSTS, "before_compression", "over_limit")


def twin_of(trial: optuna.Trial) -> FrozenTrial | None:
    """An earlier trial of the same choices, whose result this one would repeat bit for bit."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    for other in trial.study.get_trials(deepcopy=False, states=ended):
        if other.params == trial.params:
            return other
    return None


def repeat(trial: optuna.Trial, twin: FrozenTrial) -> float:
    """Let ``trial`` end as its twin did.

    Raises:
        optuna.TrialPruned: If the twin was pruned.
    """
    for name in _TAKEN_OVER:
        if name in twin.user_attrs:
            trial.set_user_attr(name, twin.user_attrs[name])
    trial.set_user_attr("same_as", twin.user_attrs["index"])
    if twin.state == TrialState.PRUNED:
        raise optuna.TrialPruned("repeats a pruned trial")
    assert twin.value is not None  # complete trials have one
    return twin.value

"""Searching for a recipe with Optuna: what to choose from, how to judge it, how to continue."""

from lightning_adls.search.objective import Budget, Objective, TrialFailed
from lightning_adls.search.results import best_curve, summary, trial_rows
from lightning_adls.search.space import Space, expand
from lightning_adls.search.study import (
    best_trial,
    counted_trials,
    make_sampler,
    open_storage,
    open_study,
    run_study,
)

__all__ = [
    "Budget",
    "Objective",
    "Space",
    "TrialFailed",
    "best_curve",
    "best_trial",
    "counted_trials",
    "expand",
    "make_sampler",
    "open_storage",
    "open_study",
    "run_study",
    "summary",
    "trial_rows",
]

"""Searching with Optuna: what to choose from, how to judge it, how to continue."""

from lightning_adls.budget import Budget
from lightning_adls.search.architecture import Architecture, ArchitectureSpace
from lightning_adls.search.formats import FormatSpace, expand
from lightning_adls.search.limits import Limits
from lightning_adls.search.objective import Objective, TrialFailed
from lightning_adls.search.progress import run_shown, study_bars
from lightning_adls.search.results import best_curve, summary, trial_rows
from lightning_adls.search.space import Choice, Space
from lightning_adls.search.study import (
    best_trial,
    counted_trials,
    make_sampler,
    open_storage,
    open_study,
    run_study,
)

__all__ = [
    "Architecture",
    "ArchitectureSpace",
    "Budget",
    "Choice",
    "FormatSpace",
    "Limits",
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
    "run_shown",
    "run_study",
    "study_bars",
    "summary",
    "trial_rows",
]

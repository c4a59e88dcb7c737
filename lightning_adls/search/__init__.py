"""Searching with Optuna: what to choose from, how to judge it, how to continue."""

from lightning_adls.budget import Budget
from lightning_adls.search.architecture_space import Architecture, ArchitectureSpace
from lightning_adls.search.failures import SearchFailed, TrialFailed
from lightning_adls.search.format_space import FormatSpace
from lightning_adls.search.limits import Limits
from lightning_adls.search.listeners import Listener, ResultsFile
from lightning_adls.search.objective import Objective
from lightning_adls.search.progress import Bars
from lightning_adls.search.results import best_curve, summary, trial_rows
from lightning_adls.search.samplers import GridSampler, SamplerFactory, make_sampler
from lightning_adls.search.search import Search, run_study
from lightning_adls.search.space import Choice, Space
from lightning_adls.search.storage import open_storage
from lightning_adls.search.study import best_trial, counted_trials, open_study, study_names
from lightning_adls.search.templates import expand
from lightning_adls.search.tensorboard import (
    FRONTS,
    RUNNING_BEST,
    TRIALS_PER_HOUR,
    VALUE,
    TensorBoardRuns,
)

__all__ = [
    "FRONTS",
    "RUNNING_BEST",
    "TRIALS_PER_HOUR",
    "VALUE",
    "Architecture",
    "ArchitectureSpace",
    "Bars",
    "Budget",
    "Choice",
    "FormatSpace",
    "GridSampler",
    "Limits",
    "Listener",
    "Objective",
    "ResultsFile",
    "SamplerFactory",
    "Search",
    "SearchFailed",
    "Space",
    "TensorBoardRuns",
    "TrialFailed",
    "best_curve",
    "best_trial",
    "counted_trials",
    "expand",
    "make_sampler",
    "open_storage",
    "open_study",
    "run_study",
    "study_names",
    "summary",
    "trial_rows",
]

"""Searching with Optuna: what to choose from, how to judge it, how to continue.

The names below are imported when they are first used: what only reads studies needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adls.budget import Budget as Budget
    from lightning_adls.search.architecture_space import Architecture as Architecture
    from lightning_adls.search.architecture_space import ArchitectureSpace as ArchitectureSpace
    from lightning_adls.search.base_objective import BaseObjective as BaseObjective
    from lightning_adls.search.failures import SearchFailed as SearchFailed
    from lightning_adls.search.failures import TrialFailed as TrialFailed
    from lightning_adls.search.format_space import FormatSpace as FormatSpace
    from lightning_adls.search.limits import BUDGETS as BUDGETS
    from lightning_adls.search.limits import Limits as Limits
    from lightning_adls.search.listeners import Listener as Listener
    from lightning_adls.search.listeners import ResultsFile as ResultsFile
    from lightning_adls.search.objective import Objective as Objective
    from lightning_adls.search.progress import Bars as Bars
    from lightning_adls.search.recipe_costs import RecipeCosts as RecipeCosts
    from lightning_adls.search.results import best_curve as best_curve
    from lightning_adls.search.results import summary as summary
    from lightning_adls.search.results import trial_rows as trial_rows
    from lightning_adls.search.samplers import GridSampler as GridSampler
    from lightning_adls.search.samplers import ProposedSampler as ProposedSampler
    from lightning_adls.search.samplers import SamplerFactory as SamplerFactory
    from lightning_adls.search.samplers import make_sampler as make_sampler
    from lightning_adls.search.search import Search as Search
    from lightning_adls.search.search import run_study as run_study
    from lightning_adls.search.space import Choice as Choice
    from lightning_adls.search.space import Space as Space
    from lightning_adls.search.storage import open_storage as open_storage
    from lightning_adls.search.study import best_trial as best_trial
    from lightning_adls.search.study import counted_trials as counted_trials
    from lightning_adls.search.study import open_study as open_study
    from lightning_adls.search.study import settings_of as settings_of
    from lightning_adls.search.study import study_names as study_names
    from lightning_adls.search.templates import expand as expand
    from lightning_adls.search.tensorboard import FRONTS as FRONTS
    from lightning_adls.search.tensorboard import HYPERVOLUME as HYPERVOLUME
    from lightning_adls.search.tensorboard import RUNNING_BEST as RUNNING_BEST
    from lightning_adls.search.tensorboard import TRIALS_PER_HOUR as TRIALS_PER_HOUR
    from lightning_adls.search.tensorboard import VALUE as VALUE
    from lightning_adls.search.tensorboard import TensorBoardRuns as TensorBoardRuns

_MODULE_OF = {
    "BUDGETS": "search.limits",
    "FRONTS": "search.tensorboard",
    "HYPERVOLUME": "search.tensorboard",
    "RUNNING_BEST": "search.tensorboard",
    "TRIALS_PER_HOUR": "search.tensorboard",
    "Architecture": "search.architecture_space",
    "ArchitectureSpace": "search.architecture_space",
    "Bars": "search.progress",
    "BaseObjective": "search.base_objective",
    "Budget": "budget",
    "Choice": "search.space",
    "FormatSpace": "search.format_space",
    "GridSampler": "search.samplers",
    "ProposedSampler": "search.samplers",
    "Limits": "search.limits",
    "Listener": "search.listeners",
    "Objective": "search.objective",
    "RecipeCosts": "search.recipe_costs",
    "ResultsFile": "search.listeners",
    "SamplerFactory": "search.samplers",
    "Search": "search.search",
    "SearchFailed": "search.failures",
    "Space": "search.space",
    "TensorBoardRuns": "search.tensorboard",
    "TrialFailed": "search.failures",
    "VALUE": "search.tensorboard",
    "best_curve": "search.results",
    "best_trial": "search.study",
    "counted_trials": "search.study",
    "expand": "search.templates",
    "make_sampler": "search.samplers",
    "open_storage": "search.storage",
    "open_study": "search.study",
    "run_study": "search.search",
    "settings_of": "search.study",
    "study_names": "search.study",
    "summary": "search.results",
    "trial_rows": "search.results",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"lightning_adls.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

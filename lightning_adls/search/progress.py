"""Searches on screen: a bar for each study; without a terminal, a line for each trial."""

from collections.abc import Callable
from typing import Any

import optuna
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_adls.search.objective import Objective
from lightning_adls.search.results import best_curve
from lightning_adls.search.study import counted_trials, run_study


def study_bars(console: Console) -> Progress:
    """Bars for :func:`run_shown`, to be used as a context manager."""
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
        console=console,
    )


def run_shown(
    bars: Progress,
    name: str,
    study: optuna.Study,
    objective: Objective[Any],
    trials: int,
    sampler: str,
    seed: int,
    after_trial: Callable[[optuna.Study], None] = lambda study: None,
    startup_trials: int = 10,
) -> None:
    """Run a study with a bar of its own; see :func:`run_study` for the arguments.

    Args:
        bars: From :func:`study_bars`.
        name: Of the study, beside its bar.
        study: From :func:`open_study`.
        objective: Judges a trial.
        trials: How many trials the study shall have in the end.
        sampler: ``tpe``, ``random`` or ``grid``.
        seed: Of the sampler.
        after_trial: Called when a trial has ended and was stored.
        startup_trials: See :func:`make_sampler`.
    """
    total = min(trials, objective.space.points)
    done = len(counted_trials(study))
    task = bars.add_task(name, total=total, completed=done, best="")
    if done >= total:
        bars.update(task, best="complete already")
        return

    def show(study: optuna.Study) -> None:
        after_trial(study)
        done = counted_trials(study)
        curve = best_curve(study)
        best = f"best {curve[-1][1]:.4f}" if curve else "none complete"
        bars.update(task, completed=len(done), best=best)
        if error := done[-1].user_attrs.get("error"):
            bars.console.print(f"{name} trial {len(done)}: {error}")
        if not bars.console.is_terminal:
            state = done[-1].state.name.lower()
            bars.console.print(f"{name} {len(done)}/{total} {state}, {best}")

    run_study(study, objective, trials, sampler, seed, show, startup_trials)
    bars.stop_task(task)

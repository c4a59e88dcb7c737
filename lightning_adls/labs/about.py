"""What a run is a run of: what its ``summary.json`` begins with, in every lab."""

import subprocess
from pathlib import Path

import lightning_adls
from lightning_adls.labs.calling import call
from lightning_adls.labs.environment import machine, versions
from lightning_adls.labs.run import Run
from lightning_adls.labs.task import Task
from lightning_adls.report import Row


def about(run: Run, task: Task | None = None, searched_seconds: float = 0.0) -> Row:
    """Name, command, commit, machine, versions, data and seconds of a run.

    Args:
        run: The run.
        task: Its task, if it has one.
        searched_seconds: Of trials, which are no steps.

    Returns:
        What JSON can hold. ``rows`` are those of each split, of ``test`` None before it is read;
        ``total_seconds`` are those of all steps and trials, of all calls.
    """
    here = call()
    found: Row = {
        "lab": run.lab,
        "run": run.name,
        "command": here.line(here.arguments),
        "commit": commit(),
        "environment": machine(),
        "versions": versions(),
    }
    if task is not None:
        tested = (row["rows"] for row in run.rows.values() if "rows" in row)
        found["rows"] = {**task.texts.row_counts, "test": next(tested, None)}
        found["classes"] = task.texts.class_names
    found["total_seconds"] = round(sum(run.seconds.values()) + searched_seconds, 1)
    return found


def commit() -> str | None:
    """The commit that this package is checked out at, None outside of a checkout.

    ``+`` follows where a file of the package differs from it.
    """
    package = Path(lightning_adls.__file__).parent
    try:
        # Installed, it lies within an environment, which may be in a checkout of something else.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        head = _git(package, "rev-parse", "HEAD").strip()
        changed = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changed.strip() else head


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout

"""Lightning's loggers as labs and searches use them: one for each training, of any kind."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

# Where MLflow keeps its runs unless it is told otherwise; its folders of files are given up.
MLFLOW = "sqlite:///mlflow.db"

LoggerMaker = Callable[..., Logger]


def make_loggers(
    makers: Sequence[LoggerMaker], folder: Path, name: str, version: str
) -> list[Logger]:
    """The loggers of one training.

    Args:
        makers: Each is called with ``save_dir``, ``name`` and ``version``.
        folder: Where loggers of files write.
        name: Of the trainings that belong together; may be empty.
        version: Of the training among them.
    """
    return [make(save_dir=folder, name=name, version=version) for make in makers]


def place_of(kind: type[Logger], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class of loggers, for one that is given ``save_dir, name, version``.

    Loggers of files take the three as they are. To others, which keep the runs of several projects
    in one place, a training is known by all of them: W&B has a ``project`` and a ``name``, MLflow
    a ``run_name`` and, for what it calls ``save_dir`` elsewhere, a ``tracking_uri``.

    Args:
        kind: The class.
        options: Its arguments, those of the user included.
    """
    known = signature(kind).parameters
    place = {"save_dir", "name", "version"}
    if not place <= set(options) or (place <= set(known) and "project" not in known):
        return dict(options)
    given = {key: value for key, value in options.items() if key not in place}
    path = Path(options["save_dir"], options["name"], options["version"])
    given["run_name" if "run_name" in known else "name"] = path.as_posix()
    if "tracking_uri" in known:
        # Lightning's own default is a folder of files, or the variable as it was when Lightning was
        # imported; MLflow sets it to where the first run is.
        variable = os.environ.get("MLFLOW_TRACKING_URI")
        given["tracking_uri"] = given.get("tracking_uri") or variable or MLFLOW
    elif "save_dir" in known:
        # W&B makes no folder.
        Path(options["save_dir"]).mkdir(parents=True, exist_ok=True)
        given["save_dir"] = str(options["save_dir"])
    return given


def log_outcome(
    logger: Logger,
    choices: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    failed: bool = False,
) -> None:
    """Log what a training was about and what it came to; its last entry.

    TensorBoard has rows of its own for that, see :mod:`lightning_adls.search.tensorboard`.
    """
    if not isinstance(logger, TensorBoardLogger):
        named = {_mlflow_name(k): v for k, v in choices.items()}
        logger.log_hyperparams(named if isinstance(logger, MLFlowLogger) else dict(choices))
        logger.log_metrics(dict(metrics))
    end(logger, failed=failed)


def _mlflow_name(name: str) -> str:
    """A name as MLflow takes it, which refuses most signs.

    Example:
        >>> _mlflow_name("*.weight"), _mlflow_name("layer.0[a]")
        ('all.weight', 'layer.0_a_')
    """
    return re.sub(r"[^\w\-. :/]", "_", name.replace("*", "all"))


def end(logger: Logger, *, failed: bool = False) -> None:
    """Close a logger; the next training has one of its own."""
    logger.finalize("failed" if failed else "success")
    if isinstance(logger, WandbLogger):
        # Else the next one would go on with this run.
        logger.experiment.finish(exit_code=int(failed))

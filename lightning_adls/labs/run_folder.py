"""The folder of a Trainer that a command line describes, and the checkpoints within it."""

from pathlib import Path
from typing import cast

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.labs.folders import LOGS, folder_of
from lightning_adls.labs.network import imported
from lightning_adls.loggers import place_of

CHECKPOINTS = "checkpoints"  # as ModelCheckpoint names it


def name_run(trainer: Namespace, lab: str, run: str) -> Path:
    """Give a Trainer the folder of a run, in place of one with the next number.

    Loggers of files take it as it is. To others, beside one of those, the run is known by the
    folder as its name.

    Args:
        trainer: The section of the command line; changed in place.
        lab: Name of the folder within ``lightning_logs``.
        run: Name of the run's folder within that of the lab.

    Raises:
        ValueError: If the name is none of a folder, or the first logger, whose folder is that of
            the checkpoints, has no place for it.
    """
    folder = folder_of(lab, run)
    loggers = _loggers(trainer)
    # jsonargparse would read a number, whose folder is `version_5`, or nothing.
    version = run if run[0].isalpha() and run.lower() != "null" else f"./{run}"
    place = {"save_dir": str(LOGS), "name": lab, "version": version}
    for n, logger in enumerate(loggers):
        # jsonargparse has filled in the defaults of all that the class takes.
        options = vars(logger.get("init_args", Namespace()))
        if set(place) <= set(options) and "project" not in options:
            logger.init_args.update(Namespace(place))
        elif n == 0:
            name = str(logger.class_path).rpartition(".")[2]
            raise InputValueError(
                f"{lab}: run={run!r} has no place in {name}, which has no folder of that name; "
                "leave it out, or name a logger of files before it, such as TensorBoardLogger."
            )
        else:
            kind = cast(type[Logger], imported(logger.class_path))
            logger.init_args = Namespace(place_of(kind, {**options, **place, "version": run}))
    if not loggers:
        trainer.default_root_dir = str(folder)
    return folder


def find_checkpoint(trainer: Namespace, lab: str, which: str) -> Path:
    """The newest checkpoint of this name, "last" or "best", in the runs of a Trainer.

    Args:
        trainer: The section of the command line, with its run's name if it has one.
        lab: Who asks.
        which: The file's name before ``.ckpt``.

    Raises:
        FileNotFoundError: If there is none.
    """
    folders = _checkpoint_folders(trainer)
    # Where there is one already, ModelCheckpoint numbers the next.
    names = [f"{which}.ckpt", f"{which}-v*.ckpt"]
    found = [path for folder in folders for name in names for path in folder.glob(name)]
    if not found:
        raise MissingFileError(
            f"{lab}: ckpt_path={which!r}: there is no {names[0]} in "
            f"{', '.join(map(str, folders)) or 'any earlier run'}; give the path of a checkpoint."
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def _checkpoint_folders(trainer: Namespace) -> list[Path]:
    """Where ModelCheckpoint keeps its files, in all runs unless one is named."""
    callbacks = trainer.callbacks or []
    chosen = [
        Path(callback.init_args.dirpath)
        for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
        if callback.get("init_args", Namespace()).get("dirpath")
    ]
    if chosen:
        return chosen
    root = Path(trainer.default_root_dir or ".")
    loggers = _loggers(trainer)
    if not loggers:
        return [root / CHECKPOINTS]
    first = loggers[0].get("init_args", Namespace())
    runs = Path(first.get("save_dir") or root) / str(first.get("name") or LOGS)
    version = first.get("version")
    if version is None:
        return sorted(runs.glob(f"**/{CHECKPOINTS}"))
    return [runs / (version if isinstance(version, str) else f"version_{version}") / CHECKPOINTS]


def _loggers(trainer: Namespace) -> list[Namespace]:
    if trainer.logger is False:
        return []
    if isinstance(trainer.logger, list | Namespace):
        return trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    # What Lightning takes where it is left to choose.
    path = "lightning.pytorch.loggers.TensorBoardLogger"
    default = Namespace(save_dir=trainer.default_root_dir or ".", name=str(LOGS), version=None)
    trainer.logger = Namespace(class_path=path, init_args=default)
    return [trainer.logger]

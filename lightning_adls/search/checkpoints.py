"""The weights of a study's best model: workers offer theirs, the driver keeps one file."""

from pathlib import Path

import lightning as L
from optuna.trial import FrozenTrial

from lightning_adls.weights import save_weights


def name_of(index: int) -> str:
    """Of the file that the trial at this place has its weights in."""
    return f"trial-{index + 1:03d}.ckpt"


def offered_at(folder: Path, index: int) -> Path:
    """Where the trial at this place leaves its weights."""
    return folder / f"{name_of(index)}.offered"


def offer(folder: Path, index: int, module: L.LightningModule) -> None:
    """Leave the weights of a trial that may be the best where the driver finds them."""
    save_weights(module, offered_at(folder, index))


def accept(folder: Path, index: int) -> str | None:
    """Keep what a trial offers; the name of its file, or None where it offers nothing."""
    if not (offered := offered_at(folder, index)).is_file():
        return None
    offered.replace(folder / name_of(index))
    return name_of(index)


def refuse(folder: Path, index: int) -> None:
    """Drop what a trial offers, if anything."""
    offered_at(folder, index).unlink(missing_ok=True)


def drop_outdone(folder: Path, before: FrozenTrial | None, best: FrozenTrial | None) -> None:
    """Remove the weights of the trial that was the best before another one was."""
    if (name := _weights_of(before)) is not None and name != _weights_of(best):
        (folder / name).unlink(missing_ok=True)


def sweep(folder: Path, best: FrozenTrial | None) -> None:
    """Remove what processes left behind that were killed; no trial may be running."""
    for path in folder.glob("trial-*.ckpt*"):
        if path.name != _weights_of(best):
            path.unlink(missing_ok=True)


def _weights_of(trial: FrozenTrial | None) -> str | None:
    return None if trial is None else trial.user_attrs.get("checkpoint")

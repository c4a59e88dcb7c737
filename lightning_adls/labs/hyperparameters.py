"""A training as a row of TensorBoard's HPARAMS, beside those of other settings."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adls.events import Session, session_summaries

# Where files are, and what decides nothing.
_PASSING = {"config", "run", "ckpt_path", "cache_dir", "num_workers", "logger", "callbacks"}


class HyperParameters(L.Callback):
    """Shows a fit under HPARAMS: settings that tell it from others; metrics are its last scalars.

    Attributes:
        settings: By name.
    """

    def __init__(self) -> None:
        self.settings: Mapping[str, str | float] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row."""
        for logger in trainer.loggers:
            if trainer.is_global_zero and isinstance(logger, TensorBoardLogger):
                session = Session(str(logger.log_dir), self.settings, status=None)
                for summary in session_summaries(session):
                    logger.experiment.file_writer.add_summary(summary)


def chosen(given: Mapping[str, Any]) -> Iterator[tuple[str, str | float]]:
    """Settings that a user gave, by the last part of their names: numbers and texts.

    Example:
        >>> dict(chosen({"model": {"learning_rate": 1e-3}, "run": "a", "recipe": "r.yaml"}))
        {'learning_rate': 0.001, 'recipe': 'r.yaml'}
    """
    for name, value in given.items():
        if name in _PASSING:
            continue
        if isinstance(value, Mapping):
            yield from chosen(value)
        elif isinstance(value, str | int | float):
            yield name, value

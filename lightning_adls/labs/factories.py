"""Types of what a YAML names by ``class_path`` and a lab makes anew when it needs it.

jsonargparse reads them: a factory takes the ``init_args`` of the class, except those that the lab
gives when it calls it. A short name will do for a class that is imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import lightning as L
from lightning.pytorch.loggers import Logger

CallbackFactory = Callable[[], L.Callback]
"""Makes a callback: one for each training, because callbacks remember."""


class LoggerFactory(Protocol):
    """Makes the logger of one training.

    Any class of loggers will do: what it calls these three is told by
    :func:`lightning_adls.loggers.place_of`.
    """

    def __call__(self, *, save_dir: str | Path, name: str, version: str) -> Logger:
        """A logger that writes to ``save_dir / name / version``."""
        ...

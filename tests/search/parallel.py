"""A search without models, which workers of tests start in a moment for."""

import os
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import optuna

from lightning_adls.search import BaseObjective


@dataclass
class DigitSpace:
    """Numbers of some digits."""

    digits: int
    base: int

    @property
    def points(self) -> int:
        return int(self.base**self.digits)

    def suggest(self, trial: Any) -> list[int]:
        names = [f"digit{n}" for n in range(self.digits)]
        return [int(trial.suggest_categorical(name, tuple(range(self.base)))) for name in names]

    def grid(self) -> dict[str, list[int]]:
        return {f"digit{n}": list(range(self.base)) for n in range(self.digits)}


class Digits(BaseObjective[Any]):
    """Its value is the sum of the digits.

    Args:
        folder: Where it notes what was judged, and by which process.
        digits: Of the numbers.
        base: Of the digits.
        seconds: What a trial takes.
        reports: Whether it reports, and asks the pruner.
        deadly: A digit that kills the process.
        faulty: Whether all trials meet a fault that is not theirs.
    """

    def __init__(
        self,
        folder: Path,
        digits: int = 3,
        base: int = 10,
        *,
        seconds: float = 0.0,
        reports: bool = False,
        deadly: int | None = None,
        faulty: bool = False,
    ) -> None:
        self.space: Any = DigitSpace(digits, base)
        self.folder = folder
        self._seconds, self._reports = seconds, reports
        self._deadly, self._faulty = deadly, faulty

    def __call__(self, trial: Any) -> float:
        digits = self.space.suggest(trial)
        trial.set_user_attr("pid", os.getpid())
        if self._faulty:
            raise AttributeError("planted")
        if self._deadly in digits:
            os._exit(7)
        time.sleep(self._seconds)
        value = float(sum(digits))
        for step in (50, 100) if self._reports else ():
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        (self.folder / f"judged-{trial.number}").touch()
        return value


class Weighed(Digits):
    """Beside the sum of the digits, their product is minimised."""

    minimise = ("size_mb",)

    def __call__(self, trial: Any) -> Any:
        value = super().__call__(trial)
        cost = float(prod(self.space.suggest(trial)))
        trial.set_user_attr("size_mb", cost)
        trial.set_user_attr("bits_per_weight", cost)
        trial.set_user_attr("choice", trial.params)
        return value, cost


def weights(folder: Path) -> dict[str, bytes]:
    """What checkpoints hold, by their names."""
    import torch

    return {
        f"{path.name}/{name}": value.numpy().tobytes()
        for path in folder.glob("trial-*.ckpt")
        for name, value in torch.load(path, weights_only=True)["state_dict"].items()
        if isinstance(value, torch.Tensor)
    }

"""Runs of scripts that end at arbitrary moments."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def run_with_kills(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run something again and again, each time killed a little later; returns how often.

    It is killed within steps of optimizers, and before and after files take their final names:
    what lies between two of these moments is as if it had been killed at the first.
    """

    def run_with_kills(run: Callable[[], int], seed: int, most: int) -> int:
        moments = random.Random(seed)
        left = 0

        def moment() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        def dangerous(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                moment()
                result = function(*args, **kwargs)
                moment()
                return result

            return wrapped

        kills = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dangerous(Path.replace))
            patch.setattr(torch.optim.AdamW, "step", dangerous(torch.optim.AdamW.step))
            while True:
                left = moments.randint(1, most)
                try:
                    assert run() == 0
                except Killed:
                    kills += 1
                else:
                    return kills

    return run_with_kills

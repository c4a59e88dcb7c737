"""Models that cost too much are not trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch

from lightning_adls.budget import Budget
from lightning_adls.data import TextData
from lightning_adls.search import Limits
from lightning_adls.search.limits import training_seconds

Build = Callable[[list[Any]], L.LightningModule]
BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")


def test_parameters_are_limited_to_the_last_one(build: Build, texts: TextData) -> None:
    module = build([])
    count = sum(p.numel() for p in module.parameters())
    assert Limits(parameters=count).exceeded(module, texts, BUDGET) is None
    reason = Limits(parameters=count - 1).exceeded(module, texts, BUDGET)
    assert reason == f"{count} parameters, limit {count - 1}"


def test_seconds_are_limited(build: Build, texts: TextData) -> None:
    assert Limits(seconds=1e6).exceeded(build([]), texts, BUDGET) is None
    reason = Limits(seconds=1e-6).exceeded(build([]), texts, BUDGET)
    assert reason is not None
    assert reason.endswith("s of training expected, limit 1e-06")


def test_expected_seconds_are_those_of_a_step_times_the_steps_of_the_budget(
    build: Build, texts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that each training step moves on by two seconds.
    now = [0.0]
    monkeypatch.setattr("lightning_adls.search.limits.perf_counter", lambda: now[0])
    module = build([])
    step = type(module).training_step

    def slow(self: Any, *arguments: Any) -> Any:
        now[0] += 2.0
        return step(self, *arguments)

    monkeypatch.setattr(type(module), "training_step", slow)
    steps = len(texts.train_dataloader())
    assert training_seconds(module, texts, BUDGET) == 2.0 * steps
    assert training_seconds(module, texts, replace(BUDGET, epochs=3)) == 6.0 * steps


def test_timing_changes_neither_the_model_nor_what_is_drawn_next(
    build: Build, texts: TextData
) -> None:
    module = build([])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    training_seconds(module, texts, BUDGET)
    drawn = torch.rand(4)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))
    assert module.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parameters": 0}, "parameters=0 is below 1"),
        ({"seconds": 0.0}, r"seconds=0\.0 is not above 0"),
    ],
)
def test_limits_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**arguments)

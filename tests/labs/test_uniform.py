"""Uniform recipes are judged as trials are, once; examples count what they multiply."""

from functools import partial
from pathlib import Path

import pytest
import torch

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.engines import Serial
from lightning_adls.labs.examples import text_of, with_example
from lightning_adls.labs.halves import Halves
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.monitoring import Monitoring
from lightning_adls.labs.task import Task
from lightning_adls.labs.uniform import uniform_rows, uniform_steps
from lightning_adls.models import bert
from lightning_adls.significance import standard_error
from lightning_adls.transforms import Quantize, bits_per_weight
from lightning_adls.transforms.bit_operations import bit_operations, macs_of

BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")
RECIPES = {f"MXInt {width}": Quantize({"*": f"MXInt(width={width})"}) for width in (4, 8)}

ALL = Monitoring(64)


@pytest.fixture
def task(cache_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """On a few of the built-in reviews, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    data = partial(
        TextData, max_length=24, cache_dir=cache_dir, limit_train=96, limit_val=64, limit_test=64
    )
    model = partial(
        bert, hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=24
    )
    return Task(data, model, TextClassifier)


@pytest.mark.parametrize("train", [False, True])
def test_uniform_recipes_are_judged_within_the_budget_and_once(task: Task, train: bool) -> None:
    with ModelRun("lab", "x", "seed: 0", task) as run:
        steps = uniform_steps(RECIPES, BUDGET, train)
        run.steps(steps, Serial())
        found = uniform_rows(run, train, ALL)
        assert not uniform_rows(run, not train, ALL)
        assert list(found) == list(RECIPES)
        for name, row in found.items():
            module = task.build(RECIPES[name])
            if train:
                again = task.train(module, BUDGET, run.curves, "again")["accuracy"]
            else:
                again = task.validate(module, BUDGET)
            assert row["val_accuracy"] == pytest.approx(again, abs=1e-6)
            assert row["val_standard_error"] == pytest.approx(standard_error(again, 64), abs=1e-6)
            assert row["bits_per_weight"] == bits_per_weight(module.model)
        run.steps({name: lambda _: pytest.fail("judged a second time") for name in steps}, Serial())


def test_uniform_recipes_are_judged_again_where_training_is_asked_for(task: Task) -> None:
    with ModelRun("lab", "x", "seed: 0", task) as run:
        for train in (False, True):
            run.steps(uniform_steps(RECIPES, BUDGET, train), Serial())
        untrained, trained = (uniform_rows(run, train, ALL) for train in (False, True))
        assert list(untrained) == list(trained) == list(RECIPES)
        assert any("checkpoint" in row for row in run.rows.values())
        assert len(run.rows) == 2 * len(RECIPES)


def test_uniform_recipes_are_reported_on_the_rows_that_nothing_is_chosen_by(task: Task) -> None:
    halves = Halves.of(task.texts, seed=0)
    monitoring = Monitoring(64, halves=halves)
    with ModelRun("lab", "x", "seed: 0", task) as run:
        run.steps(uniform_steps(RECIPES, BUDGET, False), Serial())
        found = uniform_rows(run, False, monitoring)
    rows = task.texts.rows("val")
    reported = {int(n): int(label) for n, label in zip(rows.index, rows.labels, strict=True)}
    for name, row in found.items():
        module = task.build(RECIPES[name]).eval()
        hits = []
        for n in range(len(rows)):
            batch = rows[[n]]
            number = int(rows.index[n])
            if number in halves.reporting:
                hits.append(int(module.logits(batch).argmax(-1)) == reported[number])
        assert len(hits) == 32
        assert row["val_accuracy"] == pytest.approx(sum(hits) / 32, abs=1e-6)
        error = standard_error(row["val_accuracy"], 32)
        assert row["val_standard_error"] == pytest.approx(error, abs=1e-6)


def test_an_example_is_one_text_that_arithmetic_is_counted_by(task: Task) -> None:
    recipe = RECIPES["MXInt 4"]
    module = with_example(task.build, 24)(recipe)
    example = module.example_input_array
    assert isinstance(example, dict)
    assert {name: x.shape for name, x in example.items()} == {
        "input_ids": torch.Size([1, 24]),
        "attention_mask": torch.Size([1, 24]),
    }
    macs = macs_of(task.network, **text_of(24))
    assert macs_of(module, **example).total == macs.total
    assert bit_operations(module, macs_of(module, **example)) == bit_operations(module.model, macs)

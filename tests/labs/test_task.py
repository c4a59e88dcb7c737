"""A task is prepared once; its models are fresh, alike and trained within their budgets."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import classified
from lightning_adls.labs.model_run import ModelRun
from lightning_adls.labs.task import Task, digest_of
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize, Transform
from lightning_adls.transforms.lora import LoRA
from lightning_adls.weights import save_weights

BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")
MODEL = partial(
    bert, hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=24
)
Make = Callable[..., Task]


@pytest.fixture
def make(cache_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a task on a few of the built-in reviews, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    limits = {"limit_train": 96, "limit_val": 64, "limit_test": 64}
    data = partial(TextData, max_length=24, cache_dir=cache_dir, **limits)  # type: ignore[arg-type]
    return partial(Task, data, MODEL, TextClassifier)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_one_seed_reaches_the_network_the_data_and_the_adapters(make: Make) -> None:
    lora = LoRA(rank=2)
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert (first.texts.seed, other.texts.seed) == (1, 2)
    assert same(first.network, again.network)
    assert not same(first.network, other.network)
    assert same(first.build(lora), again.build(lora))
    batches = [next(iter(task.texts.train_dataloader())) for task in (first, again, other)]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert not torch.equal(batches[0]["labels"], batches[2]["labels"])


def test_a_model_is_fresh_whatever_happened_to_the_one_before(make: Make) -> None:
    task = make()
    first = task.build(Quantize({"*": "MXInt(width=4)"}), Prune(0.5))
    with torch.no_grad():
        first.model.classifier.weight.zero_()  # type: ignore[union-attr,operator]
    assert same(task.build().model, task.network)
    task.start_from(other := make(seed=3).build())
    assert same(task.build(), other)


def test_every_budget_is_checked_before_anything_is_made(make: Make) -> None:
    wrong = Budget(accelerator="abacus")
    for budgets in ({"budgets": [BUDGET, wrong]}, {"finetune": wrong}):
        with pytest.raises(ValueError, match="abacus"):
            make(**budgets)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(make: Make, seed: int) -> None:
    with pytest.raises(ValueError, match=f"Task: seed={seed} is not in"):
        make(seed=seed)


def test_training_reports_the_accuracy_of_the_weights_it_leaves(make: Make, tmp_path: Path) -> None:
    task = make()
    module = task.build()
    found = task.train(module, BUDGET, tmp_path, "some/step")
    assert found["accuracy"] == task.validate(module, BUDGET)
    assert found["seconds"] > 0
    assert list((tmp_path / "some" / "step").glob("events*"))


def test_training_to_nan_is_an_error(make: Make, tmp_path: Path) -> None:
    task = make()
    module = task.build()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="broken: val/loss is NaN"):
        task.train(module, BUDGET, tmp_path, "broken")


def test_each_training_has_callbacks_and_loggers_of_its_own(make: Make, tmp_path: Path) -> None:
    made: list[L.Callback] = []
    trained: list[L.Callback] = []

    class Noted(L.Callback):
        def __init__(self) -> None:
            made.append(self)

        def on_fit_start(self, *_: Any) -> None:
            trained.append(self)

    from lightning.pytorch.loggers import CSVLogger

    task = make(callbacks=[Noted], loggers=[CSVLogger])
    for name in ("a", "b"):
        task.train(task.build(), BUDGET, tmp_path, name)
        assert (tmp_path / name / "metrics.csv").is_file()
    assert trained == made
    assert len(set(map(id, made))) == 2


def test_models_of_earlier_trainings_do_not_stay_in_memory(make: Make, tmp_path: Path) -> None:
    task = make()
    gc.collect()
    gc.disable()  # which nobody can count on to come soon
    try:
        ways: tuple[list[Transform], ...] = (
            [],
            [Quantize({"*": "LearnedInteger(width=4)"}), Prune(0.5)],
        )
        for transforms in ways:
            module = task.build(*transforms)
            weights = [weakref.ref(parameter) for parameter in module.parameters()]
            task.train(module, BUDGET, tmp_path, "step")
            task.validate(module, BUDGET)
            del module
            assert [weight for weight in weights if weight() is not None] == []
    finally:
        gc.enable()


def test_a_step_of_a_run_is_rebuilt_from_its_row_in_another_process(make: Make) -> None:
    recipe, prune = Quantize({"*": "MXInt(width=4)"}), Prune(0.5, activation_sparsity=0.25)
    with ModelRun("lab", "x", "seed: 0", make()) as run:
        assert run.task.texts.row_counts == {"train": 96, "val": 64}
        module = run.task.build(recipe, prune)
        row = run.step("a/b", lambda: run.train("a/b", module, BUDGET, [recipe, prune]))
        tested = run.test("a/b", BUDGET)
    with ModelRun("lab", "x", "seed: 0", make()) as run:
        again = run.module("a/b")
        batch = next(iter(run.task.texts.val_dataloader()))
        with torch.no_grad():
            assert torch.equal(module.cpu().eval().logits(batch), again.eval().logits(batch))
        assert run.task.validate(again, BUDGET) == row["accuracy"]
        assert run.test("a/b", BUDGET) == tested
        for split, accuracy in (("val", row["accuracy"]), ("test", tested)):
            answers = classified.read(run.answers(split, "a/b"))
            right = [answer.label == answer.predicted for answer in answers.values()]
            assert len(right) == 64
            assert sum(right) / 64 == pytest.approx(accuracy)


def test_what_a_model_said_of_each_row_stands_under_the_number_of_the_row(
    make: Make, tmp_path: Path
) -> None:
    task, path = make(), tmp_path / "answers.csv"
    module = task.build()
    task.test(module, BUDGET, path)
    answers = classified.read(path)
    batches: Any = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).predict(
        module, datamodule=task.texts
    )
    predicted = {
        row: int(found)
        for batch in batches
        for row, found in zip(batch["index"].tolist(), batch["class"], strict=True)
    }
    assert {row: answer.predicted for row, answer in answers.items()} == predicted
    assert list(answers) == sorted(answers)


def test_a_run_from_a_checkpoint_starts_there_and_knows_it_by_content(
    make: Make, tmp_path: Path
) -> None:
    start = make(seed=5).build()
    save_weights(start, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes())
    with ModelRun("lab", "x", "seed: 0\nfinetune: {}", make(weights=tmp_path / "a.ckpt")) as run:
        run.start(BUDGET)
        assert same(run.task.build(), start)
    moved = make(weights=tmp_path / "b.ckpt")
    with ModelRun("lab", "x", "seed: 0\nfinetune: {}", moved) as run:
        assert "start" in run.rows
    save_weights(make(seed=6).build(), tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="weights: "):
        ModelRun("lab", "x", "seed: 0\nfinetune: {}", make(weights=tmp_path / "b.ckpt"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.ckpt' cannot be read: No such file"):
        digest_of(tmp_path / "missing.ckpt")


def test_a_start_that_no_step_of_this_run_left_is_never_used(make: Make) -> None:
    left = Path("lightning_logs/lab/x/checkpoints/start.ckpt")
    save_weights(make(seed=7).build(), left)  # of other settings, whose run.json is gone
    with ModelRun("lab", "x", "seed: 0", make(finetune=BUDGET)) as run:
        run.start(BUDGET)
        found = run.task.build()
    with ModelRun("lab", "y", "seed: 0", make(finetune=BUDGET)) as run:
        run.start(BUDGET)
        assert same(found, run.task.build())


def test_the_start_is_kept_and_used_by_a_second_call(make: Make) -> None:
    for _ in range(2):
        with ModelRun("lab", "x", "seed: 0", make(finetune=BUDGET)) as run:
            run.start(BUDGET)
            run.keep([])
            built = run.task.build()
            assert not same(built, make().build())
            assert same(built, run.module("start"))

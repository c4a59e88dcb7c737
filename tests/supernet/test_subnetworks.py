"""Judging recipes of a supernet without training them, and finishing the few that are chosen."""

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.engines.pickling import dumps, loads
from lightning_adls.errors import InputValueError
from lightning_adls.search import Budget, FormatSpace, Objective, Search, open_study
from lightning_adls.supernet import (
    Subnetworks,
    SupernetTraining,
    extract,
    finish,
    make_supernet,
    recalibrate_batch_norm,
    smallest,
)
from lightning_adls.transforms import Quantize

SPACE = FormatSpace.from_templates(
    ["net.0", "net.4"],
    {"learned": {"weight": "LearnedInteger"}, "mx": {"weight": "MXInt"}},
    {"width": [2, 4, 8]},
)
BUDGET = Budget(epochs=1, reports=1, accelerator="cpu")


class Images(L.LightningDataModule):
    """Bright or dark pictures."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 1, 6, 6, generator=generator)
        self.rows = TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=16)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=64)


class Convolutional(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/accuracy", (self(batch[0]).argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.fixture(scope="module")
def data() -> Images:
    return Images()


@pytest.fixture(scope="module")
def supernet(data: Images) -> Convolutional:
    module = Convolutional()
    trainer = L.Trainer(
        max_epochs=8,
        accelerator="cpu",
        callbacks=[SupernetTraining(SPACE)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return module


def batches(data: Images) -> list[Any]:
    data.setup("fit")
    return [*data.train_dataloader()]


def test_statistics_are_those_of_the_recipe_and_nothing_else_changes(
    supernet: Convolutional, data: Images
) -> None:
    recipe = smallest(SPACE)
    plain, found = extract(supernet, recipe), extract(supernet, recipe)
    found.train()
    found.net[2].eval()
    recalibrate_batch_norm(found, [batch[0] for batch in batches(data)])
    assert found.training
    assert not found.net[2].training
    norm = found.net[1]
    assert norm.momentum == 0.1
    # By hand: what the convolution gives, batch by batch.
    outputs = [plain.eval().net[0](batch[0]) for batch in batches(data)]
    means = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variances = torch.stack([y.var((0, 2, 3), unbiased=True) for y in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, means.detach())
    torch.testing.assert_close(norm.running_var, variances.detach())
    changed = {
        name
        for name, value in found.state_dict().items()
        if not torch.equal(value, plain.state_dict()[name])
    }
    assert changed == {
        "net.1.running_mean",
        "net.1.running_var",
        "net.1.num_batches_tracked",
    }


def test_statistics_need_a_batch_where_there_are_any() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputValueError, match="batches is empty"):
        recalibrate_batch_norm(module, [])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    recalibrate_batch_norm(module[0], [])


def test_a_supernet_gives_modules_with_statistics_of_their_own(
    supernet: Convolutional, data: Images
) -> None:
    build = pickle.loads(pickle.dumps(Subnetworks(supernet, batches(data))))
    recipe = smallest(SPACE)
    expected = extract(supernet, recipe)
    recalibrate_batch_norm(expected, [batch[0] for batch in batches(data)])
    built = build(recipe)
    for name, value in expected.state_dict().items():
        assert torch.equal(built.state_dict()[name], value)


def values_of(
    supernet: Convolutional, data: Images, folder: Path, sampler: Any, sent: bool = False
) -> list[tuple[Any, float | None]]:
    objective: Objective[Quantize] = Objective(
        SPACE, Subnetworks(supernet, batches(data)), data, BUDGET, folder, train=False
    )
    if sent:
        objective = loads(dumps(objective))
    study = open_study(optuna.storages.InMemoryStorage(), "s", {}, optuna.pruners.NopPruner())
    search = Search(study, objective, sampler, trials=10, seed=0)
    search.run()
    best = search.best
    assert best is not None
    loaded = objective.load(best)
    trainer = BUDGET.trainer(1)
    (metrics,) = trainer.validate(loaded, datamodule=data, verbose=False)
    assert metrics["val/accuracy"] == best.value
    return [(trial.user_attrs["choice"], trial.value) for trial in search.counted]


def test_any_sampler_searches_among_recipes_that_are_only_evaluated(
    supernet: Convolutional, data: Images, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    for name, sampler in {
        "tpe": optuna.samplers.TPESampler,
        "nsga": optuna.samplers.NSGAIISampler,
    }.items():
        for choice, value in values_of(supernet, data, tmp_path / name, sampler):
            alone = Subnetworks(supernet, batches(data))(Quantize(choice))
            (metrics,) = BUDGET.trainer(1).validate(alone, datamodule=data, verbose=False)
            assert metrics["val/accuracy"] == value
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_what_a_worker_gets_judges_as_this_process_does(
    supernet: Convolutional, data: Images, tmp_path: Path
) -> None:
    # tests/slow/test_supernet_workers.py has the workers.
    sampler = optuna.samplers.RandomSampler
    alone = values_of(supernet, data, tmp_path / "alone", sampler)
    assert values_of(supernet, data, tmp_path / "sent", sampler, sent=True) == alone


def test_the_chosen_recipes_are_trained_on_alone(supernet: Convolutional, data: Images) -> None:
    subnetworks = Subnetworks(supernet)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    recipes = [smallest(SPACE), Quantize({"net.0": {"weight": "LearnedInteger(width=4)"}})]
    finished = finish(subnetworks, recipes, data, BUDGET)
    again = finish(subnetworks, recipes[1:], data, BUDGET)
    assert [each.recipe for each in finished] == recipes
    for one, other in zip(finished[1:], again, strict=True):
        assert one.value == other.value
        for name, value in one.module.state_dict().items():
            assert torch.equal(value, other.module.state_dict()[name])
    for each in finished:
        start = extract(supernet, each.recipe).state_dict()
        assert not torch.equal(each.module.state_dict()["net.0.weight"], start["net.0.weight"])
        (metrics,) = BUDGET.trainer(1).validate(each.module, datamodule=data, verbose=False)
        assert metrics["val/accuracy"] == each.value
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_nothing_to_finish_is_refused(supernet: Convolutional, data: Images) -> None:
    with pytest.raises(InputValueError, match="recipes is empty"):
        finish(Subnetworks(supernet), [], data, BUDGET)


def test_embeddings_are_part_of_a_space_that_asks_for_them() -> None:
    module = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 2))
    space = FormatSpace.from_templates(
        ["0", "1"], {"": {"weight": "LearnedInteger"}}, {"width": [2, 4]}, ["Embedding", "Linear"]
    )
    make_supernet(module, space)
    trial = optuna.trial.FixedTrial(
        {"0.weight": "LearnedInteger(width=2)", "1.weight": "LearnedInteger(width=4)"}
    )
    alone = extract(module, space.suggest(trial))
    assert [layer.formats.weight.width for layer in alone] == [2, 4]  # type: ignore[union-attr]
    assert space.read(space.suggest(trial).to_dict()) == space.suggest(trial)

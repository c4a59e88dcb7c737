"""What a trial does: its data, its training, its callbacks and loggers, what it notes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from studies import Recipes, run, study_of
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls import search
from lightning_adls.engines import Driver, Serial
from lightning_adls.errors import MissingFileError
from lightning_adls.search import Budget, FormatSpace, Objective
from lightning_adls.transforms import Quantize, bits_per_weight


def test_trials_train_validate_and_note_cost_and_choice(recipes: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    run(study, recipes, 3)
    for index, trial in enumerate(search.counted_trials(study)):
        assert trial.user_attrs["index"] == index
        assert list(trial.intermediate_values) == [33, 67, 100]
        assert trial.value == trial.intermediate_values[100]
        recipe = Quantize(trial.user_attrs["choice"])
        assert trial.user_attrs["bits_per_weight"] == pytest.approx(
            bits_per_weight(recipes.build(recipe)), abs=1e-4
        )


class Stock(L.LightningDataModule):
    """Points in a plane, as any project's: nothing is there before prepare_data and setup."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        assert self.calls[0] == "prepare_data"
        self.calls.append(f"setup {stage}")
        points = torch.linspace(-1, 1, 40).view(20, 2)
        self.points = TensorDataset(points, (points[:, 0] > 0.1).long())

    def train_dataloader(self) -> Any:
        self.calls.append("train_dataloader")
        return DataLoader(self.points, batch_size=5)

    def val_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=5)


class Points(L.LightningModule):
    """Classifies them."""

    def __init__(self, recipe: Quantize) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        recipe(self)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        hits = self.layer(batch[0]).argmax(-1) == batch[1]
        self.log("val/accuracy", hits.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


@pytest.fixture
def points(tmp_path: Path) -> Objective[Quantize]:
    space = FormatSpace.from_templates(["*"], {"I": {"weight": "Integer"}}, {"width": [3, 8]})
    budget = Budget(epochs=1, reports=2, accelerator="cpu")
    return Objective(space, Points, Stock(), budget, tmp_path / "points")


def test_any_data_module_is_prepared_and_set_up_before_it_is_asked_for_batches(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    study = study_of(tmp_path / "journal")
    assert len(run(study, points, 2)) == 2
    assert all(list(trial.intermediate_values) == [50, 100] for trial in study.trials)
    assert points.data.calls[:3] == ["prepare_data", "setup fit", "train_dataloader"]  # type: ignore[attr-defined]


def test_data_that_cannot_be_prepared_stop_the_search_and_are_no_failed_trial(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    class Broken(Stock):
        def prepare_data(self) -> None:
            raise RuntimeError("the mirror is down")

    study = study_of(tmp_path / "journal")
    with pytest.raises(RuntimeError, match="the mirror is down"):
        run(study, replace(points, data=Broken()), 2)
    assert search.counted_trials(study) == []


def test_every_training_has_callbacks_and_loggers_of_its_own(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    made: list[Any] = []

    class Counter(L.Callback):
        def __init__(self) -> None:
            self.steps = 0
            made.append(self)

        def on_train_batch_end(self, *_: Any) -> None:
            self.steps += 1

    objective = replace(
        points,
        callbacks=[Counter],
        loggers=[CSVLogger],
        compress=Quantize({"*": {"input": "Integer(width=8, frac_width=6)"}}),
        retrain=Budget(epochs=0.5, reports=1, accelerator="cpu"),
    )
    run(study_of(tmp_path / "journal"), objective, 2)
    assert [counter.steps for counter in made] == [4, 2, 4, 2], "both trainings of both trials"
    metrics = (tmp_path / "points" / "trials" / "002" / "metrics.csv").read_text()
    assert "val/accuracy" in metrics
    assert {"value", "bits_per_weight", "size_mb"} <= set(metrics.splitlines()[0].split(","))
    assert not list(tmp_path.rglob("events*"))
    choices = (tmp_path / "points" / "trials" / "002" / "hparams.yaml").read_text()
    assert "'*.weight': Integer" in choices
    assert "bits_per_weight" not in choices, "it is a metric"


def test_every_trial_writes_its_curves(recipes: Recipes, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = study_of(tmp_path / "journal")
    run(study, recipes, 1)
    events = EventAccumulator(str(tmp_path / "study" / "trials" / "001"))
    events.Reload()
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(events.Tags()["scalars"])
    assert "hp_metric" not in events.Tags()["scalars"], "it would be a row of HPARAMS"
    assert len(events.Scalars("val/accuracy")) == 3


@pytest.mark.parametrize("train", [True, False])
def test_a_misspelt_metric_ends_the_study(recipes: Recipes, tmp_path: Path, train: bool) -> None:
    wrong = replace(recipes, monitor="val/acuracy", train=train)
    study = study_of(tmp_path / "journal")
    with pytest.raises(KeyError, match="logged are"):
        run(study, wrong, 3)
    assert search.counted_trials(study) == []


def test_weights_that_are_elsewhere_are_named_with_the_machine_that_has_them(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    study = study_of(tmp_path / "journal")
    run(study, points, 2)
    best = search.best_trial(study)
    assert best is not None
    points.load(best)
    elsewhere = replace(points, folder=tmp_path / "elsewhere")
    with pytest.raises(MissingFileError, match=f"elsewhere.*was run on {best.user_attrs['host']}"):
        elsewhere.load(best)
    assert json.dumps(best.user_attrs)


def test_a_pruned_trial_is_not_trained_by_who_repeats_it(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    study = study_of(tmp_path / "journal", pruner=pruner)
    trials = run(study, points, 4, "random")
    assert {trial.state.name for trial in study.trials} == {"PRUNED"}
    assert len(list((tmp_path / "points" / "trials").iterdir())) == len(
        {str(params) for params, _ in trials}
    )


def test_data_are_prepared_before_workers_get_them_who_do_it_for_themselves(
    points: Objective[Quantize], tmp_path: Path
) -> None:
    class Looking(Serial):
        def run(self, driver: Driver) -> None:
            assert points.data.calls == ["prepare_data"]  # type: ignore[attr-defined]
            assert "_prepared" not in points.__getstate__()
            super().run(driver)

    study = study_of(tmp_path / "journal")
    search.Search(study, points, optuna.samplers.RandomSampler, trials=1, engine=Looking()).run()
    assert points.data.calls.count("prepare_data") == 2  # type: ignore[attr-defined]
    assert len(search.counted_trials(study)) == 1

"""Searching on a small BERT: trials, interruptions, continuation."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from optuna.trial import TrialState

from lightning_adls import search
from lightning_adls.data import TextData
from lightning_adls.search import Budget, FormatSpace, Objective
from lightning_adls.transforms import Quantize, Transform, bits_per_weight

Build = Callable[[list[Transform]], L.LightningModule]
Recipes = Objective[Quantize]
RANGES = {"width": [3, 8], "frac_width": [2, 6]}
BUDGET = Budget(epochs=1, reports=3, accelerator="cpu")


@pytest.fixture
def objective(build: Build, texts: TextData, tmp_path: Path) -> Recipes:
    layers = ["bert.encoder.*", "classifier"]
    space = FormatSpace.from_templates(layers, {"Integer": {"weight": "Integer"}}, RANGES)
    return Objective(space, lambda recipe: build([recipe]), texts, BUDGET, tmp_path / "study")


def study_of(
    where: str | Path, fingerprint: Any = None, pruner: optuna.pruners.BasePruner | None = None
) -> optuna.Study:
    with search.open_storage(where) as storage:
        return search.open_study(
            storage, "study", fingerprint or {}, pruner or optuna.pruners.NopPruner()
        )


def run(study: optuna.Study, objective: Recipes, trials: int, **options: Any) -> list[Any]:
    search.run_study(study, objective, trials, options.pop("sampler", "tpe"), 0, **options)
    return [(t.params, t.value) for t in search.counted_trials(study)]


def test_trials_train_validate_and_note_cost_and_recipe(objective: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    run(study, objective, 3)
    for index, trial in enumerate(search.counted_trials(study)):
        assert trial.user_attrs["index"] == index
        assert list(trial.intermediate_values) == [33, 67, 100]
        assert trial.value == trial.intermediate_values[100]
        recipe = Quantize(trial.user_attrs["recipe"])
        assert trial.user_attrs["bits_per_weight"] == pytest.approx(
            bits_per_weight(objective.build(recipe)), abs=1e-4
        )


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    objective: Recipes, tmp_path: Path, sampler: str
) -> None:
    whole = run(study_of(tmp_path / "whole"), objective, 5, sampler=sampler)
    path = tmp_path / "journal"

    def interrupt(study: optuna.Study) -> None:
        if len(search.counted_trials(study)) == 2:
            study.ask()  # as a killed process leaves its trial
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study_of(path), objective, 5, sampler=sampler, after_trial=interrupt)
    with path.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_')  # and its last line
    Path(f"{path}.lock").symlink_to(path)  # and its lock
    parts = run(study_of(path), objective, 5, sampler=sampler)
    assert parts == whole
    with search.open_storage(path) as storage:
        (name,) = optuna.get_all_study_names(storage)
        assert len(search.counted_trials(optuna.load_study(study_name=name, storage=storage))) == 5


def test_a_complete_search_runs_nothing_more(objective: Recipes, tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    before = run(study, objective, 2)
    broken = replace(objective, build=lambda recipe: pytest.fail("ran a trial again"))
    assert run(study_of(tmp_path / "journal"), broken, 2) == before


def test_a_changed_search_is_refused_with_the_difference(tmp_path: Path) -> None:
    study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}})
    study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}})
    with pytest.raises(ValueError, match=r"space\.width was \[4, 8\], now \[4\]. Restore them"):
        study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4]}})
    with pytest.raises(ValueError, match="train was null, now true"):
        study_of(tmp_path / "journal", {"seed": 0, "space": {"width": [4, 8]}, "train": True})


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with search.open_storage(path):
        child = os.fork()
        if child == 0:
            try:
                with search.open_storage(path):
                    os._exit(1)
            except ValueError as error:
                os._exit(0 if "belongs to a run that is going on" in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_weak_trials_are_pruned_and_recorded(objective: Recipes, tmp_path: Path) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=50)
    study = study_of(tmp_path / "journal", pruner=pruner)
    run(study, objective, 1)
    (trial,) = search.counted_trials(study)
    assert trial.state == TrialState.PRUNED
    assert list(trial.intermediate_values) == [33, 67]
    (row,) = search.trial_rows({"study": study})
    assert row["state"] == "pruned"
    assert row["value"] == trial.intermediate_values[67]
    assert row["running_best"] is None
    assert search.best_trial(study) is None


def test_a_failing_trial_is_recorded_and_the_study_goes_on(
    objective: Recipes, tmp_path: Path
) -> None:
    calls = iter(range(100))

    def build(recipe: Quantize) -> L.LightningModule:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return objective.build(recipe)

    study = study_of(tmp_path / "journal")
    run(study, replace(objective, build=build), 3)
    states = [trial.state for trial in search.counted_trials(study)]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert search.counted_trials(study)[1].user_attrs["error"] == "RuntimeError: out of memory"
    assert search.summary(study)["failed"] == 1


def test_a_nan_fails_the_trial_and_not_the_study(objective: Recipes, tmp_path: Path) -> None:
    def build(recipe: Quantize) -> L.LightningModule:
        module = objective.build(recipe)
        with torch.no_grad():
            next(module.parameters()).fill_(torch.nan)
        return module

    study = study_of(tmp_path / "journal")
    run(study, replace(objective, build=build), 1)
    (trial,) = search.counted_trials(study)
    assert trial.state == TrialState.FAIL
    assert "is NaN" in trial.user_attrs["error"]


@pytest.mark.parametrize("train", [True, False])
def test_a_misspelt_metric_ends_the_study(objective: Recipes, tmp_path: Path, train: bool) -> None:
    wrong = replace(objective, monitor="val/acuracy", train=train)
    with pytest.raises(KeyError, match="logged are"):
        run(study_of(tmp_path / "journal"), wrong, 3)


def test_only_the_best_trial_keeps_its_checkpoint_and_it_reproduces_the_value(
    objective: Recipes, tmp_path: Path, trainer: L.Trainer, texts: TextData
) -> None:
    study = study_of(tmp_path / "journal")
    run(study, objective, 4)
    best = search.best_trial(study)
    assert best is not None
    assert best.value == max(t.value or 0 for t in search.counted_trials(study))
    assert [p.name for p in (tmp_path / "study").glob("*.ckpt")] == [best.user_attrs["checkpoint"]]
    trainer.validate(objective.load(best), datamodule=texts, verbose=False)
    assert trainer.callback_metrics["val/accuracy"].item() == best.value


def test_evaluating_only_leaves_the_weights_alone(
    objective: Recipes, build: Build, tmp_path: Path
) -> None:
    study = study_of(tmp_path / "journal")
    run(study, replace(objective, train=False), 2)
    best = search.best_trial(study)
    assert best is not None
    L.seed_everything(objective.seed, verbose=False)
    fresh = build([]).state_dict()
    for name, value in objective.load(best).state_dict().items():
        assert torch.equal(value, fresh[name]), name


def test_a_space_of_one_point_is_tried_once(objective: Recipes, tmp_path: Path) -> None:
    full = FormatSpace.from_templates(["*"], {"Full": None}, RANGES)
    study = study_of(tmp_path / "journal")
    assert len(run(study, replace(objective, space=full), 5)) == 1


def test_a_repeated_recipe_takes_over_the_value_without_training(
    objective: Recipes, tmp_path: Path
) -> None:
    space = FormatSpace.from_templates(["*"], {"Integer": {"weight": "Integer"}}, RANGES)
    built = []

    def build(recipe: Quantize) -> L.LightningModule:
        built.append(recipe)
        return objective.build(recipe)

    study = study_of(tmp_path / "journal")
    rows = run(study, replace(objective, space=space, build=build), 12, sampler="random")
    distinct = {str(params): value for params, value in rows}
    assert len(built) == len(distinct) == 4, "all points, each trained once"
    assert all(distinct[str(params)] == value for params, value in rows)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_samplers_propose_the_same_trials_for_the_same_seed(
    objective: Recipes, tmp_path: Path, sampler: str
) -> None:
    space = FormatSpace.from_templates(["*"], {"Integer": {"weight": "Integer"}}, RANGES)
    searched = replace(objective, space=space, train=False)
    first = run(study_of(tmp_path / "a"), searched, 4, sampler=sampler)
    assert run(study_of(tmp_path / "b"), searched, 4, sampler=sampler) == first


def test_an_unknown_sampler_is_refused(objective: Recipes) -> None:
    with pytest.raises(ValueError, match="sampler='cmaes' is unknown; there are tpe, random, grid"):
        search.make_sampler("cmaes", objective.space, 0)


def test_every_trial_writes_its_curves_and_hyper_parameters(
    objective: Recipes, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = study_of(tmp_path / "journal")
    run(study, objective, 1)
    events = EventAccumulator(str(tmp_path / "study" / "trials" / "trial-000"))
    events.Reload()
    assert {"train/loss", "val/loss", "val/accuracy", "value"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("val/accuracy")) == 3
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def test_tpe_draws_its_first_trials_as_random_does_and_then_learns(
    objective: Recipes, tmp_path: Path
) -> None:
    searched = replace(objective, train=False)

    def params(name: str, sampler: str, startup_trials: int) -> list[Any]:
        study = study_of(tmp_path / name)
        options: dict[str, Any] = {"sampler": sampler, "startup_trials": startup_trials}
        return [found for found, _ in run(study, searched, 6, **options)]

    random = params("a", "random", 10)
    assert params("b", "tpe", 6) == random
    learned = params("c", "tpe", 3)
    assert learned[:3] == random[:3]
    assert learned != random


def test_a_grid_tries_every_point_once_and_then_ends(objective: Recipes, tmp_path: Path) -> None:
    searched = replace(objective, train=False)
    rows = run(study_of(tmp_path / "journal"), searched, 100, sampler="grid")
    assert len(rows) == searched.space.points == 4**2
    assert len({str(params) for params, _ in rows}) == len(rows)

"""Any sampler of Optuna proposes the trials, seeded anew for each."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BruteForceSampler, NSGAIISampler, RandomSampler, TPESampler
from studies import Plain, Recipes, run, study_of

from lightning_adls import search
from lightning_adls.errors import MissingPackageError
from lightning_adls.search import GridSampler, Search
from lightning_adls.search.samplers import make_sampler


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_samplers_propose_the_same_trials_for_the_same_seed(
    quick: Recipes, tmp_path: Path, sampler: str
) -> None:
    first = run(study_of(tmp_path / "a"), quick, 4, sampler)
    assert run(study_of(tmp_path / "b"), quick, 4, sampler) == first


@pytest.mark.parametrize("sampler", [NSGAIISampler, BruteForceSampler])
def test_a_sampler_of_optuna_needs_no_line_of_ours(tmp_path: Path, sampler: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        trials = run(study_of(tmp_path / "journal"), Plain(tmp_path), 5, sampler)
    assert len(trials) == 5


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            partial(optuna.samplers.PartialFixedSampler, {}, RandomSampler()),
            "sampler=PartialFixedSampler cannot be made for each trial with seed=",
        ),
        (optuna.samplers.GridSampler, "sampler=GridSampler .*search_space"),
        (partial(NSGAIISampler, population_size=1), "sampler=NSGAIISampler .*equal to 2; name"),
        (GridSampler, "use 'random' or 'tpe'"),
    ],
)
def test_a_sampler_that_cannot_be_seeded_or_take_the_space_is_refused_before_any_trial(
    recipes: Recipes, tmp_path: Path, sampler: Any, message: str
) -> None:
    mixed = search.FormatSpace.from_templates(["*"], {"A": "Integer", "B": None}, {"width": [4]})
    study = study_of(tmp_path / "journal")
    objective = replace(recipes, space=mixed)
    with pytest.raises(ValueError, match=message):
        Search(study, objective, sampler)
    assert study.trials == []


def test_a_sampler_without_its_package_says_so(quick: Recipes) -> None:
    def sampler(seed: int) -> Any:
        raise ImportError("no module named cmaes")

    with pytest.raises(MissingPackageError, match="no module named cmaes"):
        make_sampler(sampler, quick.space, 0)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    message = "sampler='cmaes' is unknown; there are tpe, random, grid"
    with pytest.raises(ValueError, match=message):
        search.run_study(study_of(tmp_path / "journal"), Plain(tmp_path), 3, "cmaes")  # type: ignore[arg-type]


def test_tpe_draws_its_first_trials_as_random_does_and_then_learns(tmp_path: Path) -> None:
    def params(name: str, sampler: Any) -> list[Any]:
        trials = run(study_of(tmp_path / name), Plain(tmp_path), 8, sampler)
        return [found for found, _ in trials]

    random = params("a", RandomSampler)
    assert params("b", partial(TPESampler, n_startup_trials=8)) == random
    learned = params("c", partial(TPESampler, n_startup_trials=3))
    assert learned[:3] == random[:3]
    assert learned != random


def test_a_grid_tries_every_point_once_and_then_ends(tmp_path: Path) -> None:
    rows = run(study_of(tmp_path / "journal"), Plain(tmp_path), 100, "grid")
    assert sorted(params["number"] for params, _ in rows) == list(range(10))


def test_the_order_of_a_grid_is_that_of_the_search_seed(tmp_path: Path) -> None:
    def order(name: str, seed: int) -> list[int]:
        study = study_of(tmp_path / name)
        Search(study, Plain(tmp_path), GridSampler, 10, seed).run()  # type: ignore[arg-type]
        return [trial.params["number"] for trial in study.trials]

    # As numpy's permutation of seed 0 has it: runs of earlier versions continue in it.
    assert order("a", 0) == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert order("b", 1) != order("a2", 0) == order("a", 0)

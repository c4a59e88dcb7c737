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
from lightning_adls.search import GridSampler, ProposedSampler, SamplerFactory, Search, driver
from lightning_adls.search.judged import JudgedTrial
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


class Letters:
    """A space of six letters, each of which is its own choice."""

    points = 3**6

    def suggest(self, trial: optuna.Trial) -> str:
        return "".join(trial.suggest_categorical(f"letter {n}", ("a", "b", "c")) for n in range(6))


class Judged(Plain):
    """An objective that prunes some of its trials."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.space: Any = Letters()

    def __call__(self, trial: JudgedTrial) -> float:
        value = self.space.suggest(trial).count("a") / 6
        trial.report(value, 50)
        if trial.number % 7 == 3:
            raise optuna.TrialPruned
        return float(value)


# Those that keep what trials have in common, and one that does not.
KEEPING: dict[str, SamplerFactory] = {
    "nsga2": partial(NSGAIISampler, population_size=5),
    "nsga3": partial(optuna.samplers.NSGAIIISampler, population_size=5),
    "tpe of all": partial(TPESampler, n_startup_trials=5, multivariate=True),
    "tpe of each": partial(TPESampler, n_startup_trials=5, multivariate=False),
}


@pytest.mark.parametrize("sampler", KEEPING.values(), ids=KEEPING.keys())
def test_what_samplers_remember_changes_no_proposal(
    tmp_path: Path, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(study_of(tmp_path / "a"), Judged(tmp_path), 60, sampler)
    monkeypatch.setattr(driver, "remember", lambda sampler, earlier: None)
    assert run(study_of(tmp_path / "b"), Judged(tmp_path), 60, sampler) == found


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "tpe of all"])
def test_parameters_of_a_trial_are_compared_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    kind = optuna.distributions.CategoricalDistribution
    equal = kind.__eq__

    def counting(self: Any, other: Any) -> bool:
        nonlocal compared
        compared += 1
        return equal(self, other)

    monkeypatch.setattr(kind, "__eq__", counting)
    run(study_of(tmp_path / "journal"), Judged(tmp_path), 60, KEEPING[name])
    assert 60 * 6 / 2 < compared < 60 * 6 * 4, "where all are compared, it is 60 * 60 * 6 / 2"


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
        search.run_study(Plain(tmp_path), 3, "cmaes")


def test_a_study_in_memory_is_run_in_one_line(tmp_path: Path) -> None:
    objective = Plain(tmp_path, lambda number: abs(number - 3))
    objective.mode, objective.monitor = "min", "distance"
    found = search.run_study(objective, 10, "grid", seed=1)
    assert found.best is not None
    assert (found.best.value, found.best.params) == (0, {"number": 3})
    assert found.study.metric_names == ["distance"]
    again = search.run_study(objective, 3, optuna.samplers.RandomSampler)
    assert len(again.counted) == 3


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
        Search(study, Plain(tmp_path), GridSampler, 10, seed).run()
        return [trial.params["number"] for trial in study.trials]

    # As numpy's permutation of seed 0 has it: runs of earlier versions continue in it.
    assert order("a", 0) == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert order("b", 1) != order("a2", 0) == order("a", 0)


def test_proposed_points_are_tried_in_their_order_also_after_an_interruption(
    tmp_path: Path,
) -> None:
    points = [{"number": n} for n in (7, 2, 5)]
    sampler: Any = partial(ProposedSampler, points)

    def stops(number: int) -> float:
        if number == 2:
            raise KeyboardInterrupt
        return float(number)

    with pytest.raises(KeyboardInterrupt):
        run(study_of(tmp_path / "journal"), Plain(tmp_path, stops), 3, sampler)
    assert run(study_of(tmp_path / "journal"), Plain(tmp_path), 3, sampler) == [
        ({"number": n}, float(n)) for n in (7, 2, 5)
    ]
    with pytest.raises(ValueError, match="points is empty"):
        ProposedSampler([])

"""Searching for what is still good when it is compressed, and for what is not too large."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pytest
import torch
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from studies import run, study_of

from lightning_adls import search
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.models import bert
from lightning_adls.search import Architecture, ArchitectureSpace, Budget, Limits, Objective
from lightning_adls.transforms.cost import costs
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import linear_layers

BUDGET = Budget(epochs=2, reports=3, accelerator="cpu")
SPACE = ArchitectureSpace([1], [1, 2], [16, 24], [16, 32])

Study = Callable[[Objective[Architecture]], list[FrozenTrial]]


@pytest.fixture
def objective(texts: TextData, tmp_path: Path) -> Objective[Architecture]:
    def build(architecture: Architecture) -> L.LightningModule:
        network = architecture.build(
            lambda **sizes: bert(vocab_size=texts.vocab_size, max_position_embeddings=24, **sizes)
        )
        return TextClassifier(network, learning_rate=5e-3)

    return Objective(SPACE, build, texts, BUDGET, tmp_path / "study")


@pytest.fixture
def searched(tmp_path: Path) -> Study:
    """Runs four trials of an objective and returns them."""

    def searched(objective: Objective[Architecture]) -> list[FrozenTrial]:
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
        search.Search(study, objective, optuna.samplers.RandomSampler, 4).run()
        return search.counted_trials(study)

    return searched


def ternary_half(module: L.LightningModule) -> None:
    """Weights of three values, the first half of the rows masked."""
    Quantize({"*": {"weight": "Ternary(scale=none)"}})(module)
    for layer in linear_layers(module).values():
        mask = torch.ones_like(layer.weight, dtype=torch.bool)
        mask[: len(mask) // 2] = False
        layer.weight_mask = mask


def validated(module: L.LightningModule, texts: TextData) -> float:
    trainer = BUDGET.trainer(1)
    trainer.validate(module, datamodule=texts, verbose=False)
    return trainer.callback_metrics["val/accuracy"].item()


def best(trials: list[FrozenTrial]) -> FrozenTrial:
    return max(trials, key=lambda trial: trial.value or 0.0)


def test_the_value_is_the_metric_after_compression(
    objective: Objective[Architecture], searched: Study, texts: TextData, tmp_path: Path
) -> None:
    plain = searched(objective)
    assert all("before_compression" not in trial.user_attrs for trial in plain)
    compressed = searched(replace(objective, compress=ternary_half, folder=tmp_path / "compressed"))
    assert [t.user_attrs["before_compression"] for t in compressed] == [t.value for t in plain]
    assert [t.value for t in compressed] != [t.value for t in plain]
    # The same by hand: the best model of the search without compression, compressed.
    module = objective.load(best(plain))
    ternary_half(module)
    assert validated(module, texts) == compressed[best(plain).number].value


@pytest.mark.parametrize("retrain", [None, Budget(epochs=1, reports=1, accelerator="cpu")])
def test_costs_are_those_after_compression_and_the_best_model_is_kept_compressed(
    objective: Objective[Architecture], searched: Study, texts: TextData, retrain: Budget | None
) -> None:
    objective = replace(objective, compress=ternary_half, retrain=retrain)
    trial = best(searched(objective))
    module = objective.load(trial)
    assert validated(module, texts) == trial.value
    for name, value in costs(module).items():
        assert trial.user_attrs[name] == pytest.approx(value, abs=1e-4), name
    assert trial.user_attrs["bits_per_weight"] == 2
    assert trial.user_attrs["sparsity"] == pytest.approx(0.5, abs=0.01)
    plain = objective.build(SPACE.read(trial.user_attrs["choice"]))
    assert trial.user_attrs["size_mb"] < costs(plain)["size_mb"]


def test_training_again_changes_the_weights_and_is_not_pruned(
    objective: Objective[Architecture], searched: Study, tmp_path: Path
) -> None:
    once = replace(objective, compress=ternary_half)
    twice = replace(once, retrain=BUDGET, folder=tmp_path / "twice")
    first, second = searched(once), searched(twice)
    for a, b in zip(first, second, strict=True):
        assert a.user_attrs["before_compression"] == b.user_attrs["before_compression"]
        assert list(b.intermediate_values) == [33, 67, 100], "the first training alone reports"
    assert [t.value for t in first] != [t.value for t in second]
    events = list((tmp_path / "twice").glob("trials/001/retrain/events*"))
    assert events, "the second training has curves of its own"


def test_a_repeated_choice_takes_over_what_compression_gave(
    objective: Objective[Architecture], tmp_path: Path
) -> None:
    space = ArchitectureSpace([1], [1, 2], [16], [32])
    objective = replace(objective, space=space, compress=ternary_half, train=False)

    def same(*, seed: int) -> BaseSampler:
        return PartialFixedSampler({"num_attention_heads": 1}, RandomSampler(seed))

    study = study_of(tmp_path / "journal")
    run(study, objective, 2, same)
    first, second = search.trial_rows({"study": study})
    unlike = {"trial", "seconds"}
    assert {k: v for k, v in first.items() if k not in unlike} == {
        k: v for k, v in second.items() if k not in unlike
    }
    assert first["before_compression"] is not None
    assert study.trials[1].user_attrs["same_as"] == 0


def test_models_over_a_limit_are_pruned_before_training_with_their_reason(
    objective: Objective[Architecture], searched: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = searched(objective)
    counts = sorted(trial.user_attrs["parameters"] for trial in everything)
    limited = searched(replace(objective, limits=Limits(parameters=counts[1])))
    for free, trial in zip(everything, limited, strict=True):
        if free.user_attrs["parameters"] <= counts[1]:
            assert trial.value == free.value
            assert "over_limit" not in trial.user_attrs
        else:
            assert trial.state == TrialState.PRUNED
            assert not trial.intermediate_values
            assert trial.user_attrs["over_limit"].endswith(f"limit {counts[1]}")
    assert any(trial.state == TrialState.PRUNED for trial in limited)

    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    states = {t.state for t in searched(replace(objective, limits=Limits(parameters=1)))}
    assert states == {TrialState.PRUNED}


def test_a_limit_on_seconds_changes_no_value(
    objective: Objective[Architecture], searched: Study
) -> None:
    values = [trial.value for trial in searched(objective)]
    limited = replace(objective, limits=Limits(seconds=1e6))
    assert [trial.value for trial in searched(limited)] == values


def test_compression_that_fails_in_torch_fails_its_trial_and_a_wrong_recipe_the_search(
    objective: Objective[Architecture], searched: Study
) -> None:
    errors: list[Exception] = [RuntimeError("no kernel"), ValueError("Prune: nothing matches")]

    def compress(module: L.LightningModule) -> None:
        if errors:
            raise errors.pop(0)

    with pytest.raises(ValueError, match="nothing matches"):
        searched(replace(objective, compress=compress))
    errors = [RuntimeError("no kernel")]
    (first, second, *_) = searched(replace(objective, compress=compress))
    assert first.state == TrialState.FAIL
    assert first.user_attrs["error"] == "RuntimeError: no kernel"
    assert second.state == TrialState.COMPLETE


def test_training_again_without_compression_is_refused(objective: Any) -> None:
    with pytest.raises(ValueError, match="retrain follows compression"):
        replace(objective, retrain=BUDGET)

"""TrialPruning within a stock Trainer."""

import lightning as L
import optuna
import pytest
import torch

from lightning_adls.callbacks import TrialPruning


class Scripted(L.LightningModule):
    """Any LightningModule: logs the scores it is given, one per validation."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False

    def training_step(self, batch: object, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()

    def validation_step(self, batch: object, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log("score", next(self.scores))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    trial: optuna.Trial, scores: list[float], monitor: str = "score", parts: int = 100
) -> float:
    """One epoch of eight steps with four validations."""
    rows = torch.utils.data.DataLoader(torch.zeros(8, 1).split(1))
    trainer = L.Trainer(
        max_steps=8,
        val_check_interval=2,
        num_sanity_val_steps=1,
        accelerator="cpu",
        callbacks=[TrialPruning(trial, monitor, parts)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Scripted([0.0, *scores])  # the first is the sanity check's
    trainer.fit(module, rows, rows)
    return trainer.callback_metrics["score"].item()


def study(pruner: optuna.pruners.BasePruner) -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=pruner)


def test_every_validation_of_a_single_epoch_is_reported_in_percent_of_the_budget() -> None:
    done = study(optuna.pruners.NopPruner())
    done.optimize(lambda trial: fit(trial, [0.5, 0.6, 0.7, 0.8]), n_trials=1)
    reported = {25: 0.5, 50: 0.6, 75: 0.7, 100: 0.8}
    assert done.trials[0].intermediate_values == pytest.approx(reported)


def test_a_weak_trial_stops_within_its_only_epoch() -> None:
    pruned = study(optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=30))
    scores = iter([[0.5, 0.6, 0.7, 0.8], [0.1, 0.1, 0.9, 0.9]])
    pruned.optimize(lambda trial: fit(trial, next(scores)), n_trials=2)
    assert pruned.trials[1].state == optuna.trial.TrialState.PRUNED
    assert list(pruned.trials[1].intermediate_values) == [25, 50]


def test_a_trial_that_has_spent_its_budget_is_complete_however_weak() -> None:
    complete = study(optuna.pruners.ThresholdPruner(lower=1.0, n_warmup_steps=80))
    complete.optimize(lambda trial: fit(trial, [0.1, 0.1, 0.1, 0.1]), n_trials=1)
    assert complete.trials[0].state == optuna.trial.TrialState.COMPLETE
    assert complete.trials[0].intermediate_values[100] == pytest.approx(0.1)


def test_a_misspelt_metric_is_an_error_that_names_the_logged_ones() -> None:
    with pytest.raises(KeyError, match="monitor='scor' is not logged; logged are score"):
        study(optuna.pruners.NopPruner()).optimize(lambda t: fit(t, [0.5], "scor"), n_trials=1)


def test_a_metric_that_is_nan_fails_the_trial() -> None:
    with pytest.raises(FloatingPointError, match="score is NaN after 4 steps"):
        study(optuna.pruners.NopPruner()).optimize(
            lambda trial: fit(trial, [0.5, float("nan")]), n_trials=1
        )


def test_more_validations_than_parts_are_refused_and_not_ignored() -> None:
    scores = [0.5, 0.6, 0.7, 0.8]
    reported = study(optuna.pruners.NopPruner())
    trial = reported.ask()
    with pytest.raises(
        ValueError, match=r"parts=2 are too few .* validate less often, or give more"
    ):
        fit(trial, scores, parts=2)
    trial = reported.ask()
    fit(trial, scores, parts=8)
    assert list(reported.trials[1].intermediate_values) == [2, 4, 6, 8]

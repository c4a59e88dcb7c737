"""What a fit leaves in checkpoints, averages and rewinds is all that decides the output.

Waiting to round is the fit's matter: no checkpoint says that a model does not round.
"""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import Calibration, QuantizationAwareTraining
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import Quantize

RECIPE = {"layer": "Integer(width=4)"}
LEARNED = {"layer": "LearnedInteger(width=4)"}


class Module(L.LightningModule):
    """One linear layer, and whether it rounded in each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Linear(8, 2)
        self.rounded: list[bool] = []
        self.lr = 0.1  # what finders look for

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert isinstance(self.layer, QuantizedLayer)
        self.rounded.append(self.layer.enabled)
        self.log("loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def data() -> DataLoader[tuple[Tensor, ...]]:
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(rows), 4)


class SaveBeforeRounding(L.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 1:
            trainer.save_checkpoint(self.path)


def trainer(*callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_steps=4,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_model_that_waited_to_round_rounds_when_its_checkpoint_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "early.ckpt"
    waiting = QuantizationAwareTraining(RECIPE, start=0.5)
    trainer(waiting, SaveBeforeRounding(path)).fit(Module(), data())

    judged = Module()
    trainer(QuantizationAwareTraining(RECIPE, start=0.5)).validate(
        judged, data(), ckpt_path=path, verbose=False
    )
    assert judged.rounded == [True] * 4

    loaded = Module()
    Quantize(RECIPE)(loaded)
    loaded.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert isinstance(loaded.layer, QuantizedLayer)
    assert loaded.layer.enabled


AVERAGES: dict[str, Callable[[], L.Callback]] = {
    "exponential": lambda: EMAWeightAveraging(decay=0.5),
    "exponential-late": lambda: EMAWeightAveraging(decay=0.5, update_starting_at_step=2),
    "equal": WeightAveraging,
    "without-buffers": lambda: WeightAveraging(use_buffers=False),
    "stochastic": lambda: StochasticWeightAveraging(0.1, swa_epoch_start=1),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_the_average_of_a_model_with_learned_scales_is_judged_as_it_is_loaded(
    tmp_path: Path, average: Callable[[], L.Callback]
) -> None:
    fitting, module = trainer(QuantizationAwareTraining(LEARNED), average()), Module()
    fitting.fit_loop.epoch_loop.max_steps = 12
    fitting.fit(module, data(), data())
    path = tmp_path / "average.ckpt"
    fitting.save_checkpoint(path)
    judging = trainer(QuantizationAwareTraining(LEARNED))
    fresh = Module()
    logged = judging.validate(fresh, data(), ckpt_path=path, verbose=False)
    assert isinstance(fresh.layer, QuantizedLayer)
    assert all(fresh.layer.fitted_of(role) for role in ("input", "weight", "bias"))
    assert fitting.validate(module, data(), verbose=False) == logged


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize(
    "quantising",
    [QuantizationAwareTraining(RECIPE), Calibration(RECIPE)],
    ids=["qat", "calibrated"],
)
def test_an_average_that_was_made_of_plain_layers_is_refused(
    average: Callable[[], L.Callback], quantising: L.Callback
) -> None:
    who = type(quantising).__name__
    with pytest.raises(ValueError, match=f"^{who}: callbacks has .* before it, .* put {who} first"):
        trainer(average(), quantising).fit(Module(), data())


def test_an_average_before_the_callback_is_no_harm_to_a_module_that_is_quantised_already() -> None:
    module = Module()
    Quantize(LEARNED)(module)
    trainer(EMAWeightAveraging(), QuantizationAwareTraining(LEARNED)).fit(module, data())
    assert module.state_dict()["layer.input_fitted"]


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_of_a_model_that_waited_to_round_rounds_when_it_is_loaded(
    tmp_path: Path, decay: float
) -> None:
    path = tmp_path / "average.ckpt"
    callbacks = (
        QuantizationAwareTraining(RECIPE, start=0.5),
        EMAWeightAveraging(decay=decay),
        SaveBeforeRounding(path),
    )
    trainer(*callbacks).fit(Module(), data())
    judged = Module()
    trainer(QuantizationAwareTraining(RECIPE)).validate(
        judged, data(), ckpt_path=path, verbose=False
    )
    assert judged.rounded == [True] * 4


class BeforeTheFirstStep(L.Callback):
    def __init__(self) -> None:
        self.scales: list[Tensor] = []

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:  # that of the fit is the last
            state = pl_module.state_dict()
            self.scales = [state[f"layer.{role}_scales"].clone() for role in ("input", "weight")]


def test_what_a_finder_trained_is_forgotten_with_its_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # finders write into the working folder
    finder = LearningRateFinder(num_training_steps=5, update_attr=False, early_stop_threshold=None)
    fits = []
    for others in ([], [finder]):
        torch.manual_seed(3)
        module, first = Module(), BeforeTheFirstStep()
        trainer(QuantizationAwareTraining(LEARNED), *others, first).fit(module, data())
        fits.append(first.scales)
    assert len(fits[0]) == 2
    assert all(torch.equal(a, b) for a, b in zip(*fits, strict=True))


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_calibrated_checkpoint_keeps_its_ranges_also_one_of_weights_alone(
    tmp_path: Path, weights_only: bool
) -> None:
    path, fitted = tmp_path / "calibrated.ckpt", Module()
    fitting = trainer(Calibration(RECIPE))
    fitting.fit(fitted, data(), data())
    fitting.save_checkpoint(path, weights_only=weights_only)
    fresh, again = Module(), Calibration(RECIPE)
    logged = trainer(again).validate(fresh, data(), ckpt_path=path, verbose=False)
    assert fitting.validate(fitted, data(), verbose=False) == logged
    assert again.recipe is not None
    assert not fresh._load_state_dict_pre_hooks


@pytest.mark.parametrize("then", ["Integer(width=3)", "LearnedInteger(width=4)"])
def test_a_run_is_not_resumed_with_another_recipe(tmp_path: Path, then: str) -> None:
    path = tmp_path / "first.ckpt"
    fitting = trainer(QuantizationAwareTraining(RECIPE))
    fitting.fit(Module(), data())
    fitting.save_checkpoint(path)
    for run in ("fit", "validate"):
        callback = QuantizationAwareTraining({"layer": then})
        with pytest.raises(
            ValueError, match=r"the recipe of layer is .*width=4.* in the state dict"
        ):
            getattr(trainer(callback), run)(Module(), data(), ckpt_path=path)

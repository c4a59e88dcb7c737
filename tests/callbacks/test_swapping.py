"""When layers cannot be swapped so that what is trained is what was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelSummary,
    RichModelSummary,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import Calibration, OneShot, Pruning, QuantizationAwareTraining
from lightning_adls.layers import QuantizedLayer

LEARNED = "LearnedInteger(width=4)"
SWAPPING: dict[str, Callable[[], L.Callback]] = {
    "qat": lambda: QuantizationAwareTraining({"*": "MXInt(width=4)"}),
    "calibration": lambda: Calibration({"*": "Integer(width=4)"}),
    "pruning": lambda: Pruning(OneShot(0.5)),
}


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first: Any = nn.Linear(8, 4)
        self.last: Any = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x).relu())
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self(batch[0])

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class NoLayers(Module):
    """Makes them when it is configured."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = None

    def configure_model(self) -> None:
        if self.first is None:
            self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 2)


class LateHead(Module):
    """Makes its last layer when it is set up."""

    def setup(self, stage: str) -> None:
        self.last = nn.Linear(4, 2)


class LateLast(Module):
    """Makes its last layer anew when it is configured."""

    def configure_model(self) -> None:
        self.last = nn.Sequential(nn.Linear(4, 2))


class Compiled(Module):
    """Wraps its layers when it is configured, which gives them other names."""

    def configure_model(self) -> None:
        self.last = nn.Sequential(self.last)


class Lazy(Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.LazyLinear(2)


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.randn(16, 8), torch.ones(16).long()), batch_size=4)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        **{"max_epochs": 1, "enable_model_summary": False, **options},
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


@pytest.mark.parametrize("make", SWAPPING.values(), ids=SWAPPING)
def test_a_module_without_layers_yet_is_told_when_to_make_them(
    make: Callable[[], L.Callback],
) -> None:
    with pytest.raises(ValueError, match=r"configure_model come after .* make them in __init__"):
        trainer(make()).fit(NoLayers(), datamodule=Data())
    module = NoLayers()
    module.configure_model()
    trainer(make()).fit(module, datamodule=Data())
    assert isinstance(module.last, QuantizedLayer)


@pytest.mark.parametrize("make", SWAPPING.values(), ids=SWAPPING)
@pytest.mark.parametrize("module", [LateHead, LateLast])
@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_layers_that_are_made_too_late_are_refused(
    make: Callable[[], L.Callback], module: type[Module], entry: str
) -> None:
    with pytest.raises(ValueError, match=r"layer 'last(\.0)?' was made after .* in __init__"):
        getattr(trainer(make()), entry)(module(), datamodule=Data())


def test_a_late_layer_that_is_left_out_is_no_matter() -> None:
    module = LateHead()
    recipe = {"*": "MXInt(width=4)", "last": None}
    trainer(QuantizationAwareTraining(recipe)).fit(module, datamodule=Data())
    assert type(module.last) is nn.Linear


def test_layers_that_are_wrapped_later_are_no_new_ones() -> None:
    # Under its new name the pattern for all layers would match what was left out.
    recipe = {"*": "MXInt(width=4)", "last": None}
    trainer(QuantizationAwareTraining(recipe)).fit(Compiled(), datamodule=Data())


@pytest.mark.parametrize("make", SWAPPING.values(), ids=SWAPPING)
def test_a_lazy_layer_has_to_see_a_batch_before(make: Callable[[], L.Callback]) -> None:
    module = Lazy()
    with pytest.raises(ValueError, match="'last' is a LazyLinear that has no weights yet"):
        trainer(make()).fit(module, datamodule=Data())
    module(torch.randn(1, 8))
    trainer(make()).fit(module, datamodule=Data())
    assert isinstance(module.last, QuantizedLayer)


def checkpoint(path: Path, *callbacks: L.Callback) -> Path:
    fit = trainer(*callbacks)
    fit.fit(Module(), datamodule=Data())
    fit.save_checkpoint(path)
    return path


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_plain_run_goes_on_only_if_nothing_new_is_trained(tmp_path: Path, start: float) -> None:
    path = checkpoint(tmp_path / "plain.ckpt")
    learning = QuantizationAwareTraining({"*": LEARNED}, start)
    with pytest.raises(
        ValueError, match=r"'first\.input_scales'.*load the weights .* without ckpt"
    ):
        trainer(learning, max_epochs=2).fit(Module(), datamodule=Data(), ckpt_path=path)
    module = Module()
    rounding = QuantizationAwareTraining({"*": "MXInt(width=4)"}, start)
    trainer(rounding, max_epochs=2).fit(module, datamodule=Data(), ckpt_path=path)
    assert isinstance(module.first, QuantizedLayer)
    trainer(learning).validate(Module(), datamodule=Data(), ckpt_path=path, verbose=False)


@pytest.mark.filterwarnings("ignore:.*no group of the optimizer has the learned scale")
def test_a_run_goes_on_whose_optimizer_leaves_scales_alone(tmp_path: Path) -> None:
    class Weights(Module):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            names = ("weight", "bias")
            chosen = [p for name, p in self.named_parameters() if name.endswith(names)]
            return torch.optim.AdamW(chosen, lr=1e-2)

    path = checkpoint(tmp_path / "plain.ckpt")
    learning = QuantizationAwareTraining({"*": LEARNED})
    trainer(learning, max_epochs=2).fit(Weights(), datamodule=Data(), ckpt_path=path)


@pytest.mark.parametrize("average", [EMAWeightAveraging, lambda: StochasticWeightAveraging(0.1)])
def test_an_average_without_masks_is_refused(average: Callable[[], L.Callback]) -> None:
    module = Module()
    QuantizationAwareTraining({"*": "MXInt(width=4)"}).prepare(module)  # nothing is left to swap
    with pytest.raises(ValueError, match=r"Pruning: callbacks has .* put Pruning first"):
        trainer(average(), Pruning(OneShot(0.5))).fit(module, datamodule=Data())


def test_an_average_with_other_ranges_is_refused() -> None:
    callbacks = Calibration({"*": "Integer(width=4)"}), EMAWeightAveraging()
    with pytest.raises(ValueError, match="EMAWeightAveraging, which copied the module before its"):
        trainer(*callbacks).fit(Module(), datamodule=Data())


@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
def test_summaries_count_the_parameters_of_the_plain_module_and_its_scales(
    summary: type[ModelSummary],
) -> None:
    class Noting(summary):  # type: ignore[misc,valid-type]
        def summarize(
            self, summary_data: Any, total_parameters: int, *args: Any, **kwargs: Any
        ) -> None:
            self.data, self.total = dict(summary_data), total_parameters
            super().summarize(summary_data, total_parameters, *args, **kwargs)

    module, noting = Module(), Noting(max_depth=-1)
    module.example_input_array = torch.randn(1, 8)
    plain = sum(parameter.numel() for parameter in module.parameters())
    callbacks = Pruning(OneShot(0.5)), QuantizationAwareTraining({"*": LEARNED})
    trainer(*callbacks, noting, enable_model_summary=True).fit(module, datamodule=Data())
    scales = [p for name, p in module.named_parameters() if name.endswith("_scales")]
    assert noting.total == plain + sum(scale.numel() for scale in scales)
    assert [type(module.first).__name__, type(module.last).__name__] == noting.data["Type"]
    assert noting.data["Out sizes"] == ["[1, 4]", "[1, 2]"]

"""Running averages of modules that are pruned and quantised: what is saved is what was measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import Cubic, Pruning, QuantizationAwareTraining
from lightning_adls.errors import InputValueError
from lightning_adls.transforms import Prune
from lightning_adls.transforms.cost import sparsity_of

pytestmark = pytest.mark.conformance


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader() -> DataLoader[Any]:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


def trainer(callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def training() -> L.Callback:
    return QuantizationAwareTraining({"*": "LearnedInteger(width=4)"})


def pruning() -> L.Callback:
    # The last masks come with the last step, which the average has not seen when they do.
    return Pruning(Cubic(0.5, end=1.0, updates=4))


AVERAGES: dict[str, Callable[[], L.Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "ema of lists": lambda: WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "ema of weights": lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
    "mean of weights": lambda: WeightAveraging(use_buffers=False),
    "swa": lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize(
    "changes", [[pruning], [training, pruning], [pruning, training]], ids=["p", "tp", "pt"]
)
def test_the_saved_average_has_the_masks_and_the_loss_of_the_run(
    name: str, changes: list[Callable[[], L.Callback]], tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, save_last=True)
    fitted = trainer([*(change() for change in changes), AVERAGES[name](), saving])
    module, loaded = Net(), Net()
    fitted.fit(module, loader(), loader())
    again = trainer([change() for change in changes])
    (found,) = again.validate(
        loaded, loader(), ckpt_path=str(tmp_path / "last.ckpt"), verbose=False
    )
    assert found["loss"] == pytest.approx(float(fitted.callback_metrics["loss"]), abs=1e-6)
    assert sparsity_of(loaded) == sparsity_of(module) == 0.5


@pytest.mark.parametrize(
    "average", [WeightAveraging, lambda: WeightAveraging(avg_fn=get_swa_avg_fn())]
)
@pytest.mark.parametrize("change", [training, pruning])
def test_a_rule_that_masks_cannot_follow_is_refused(
    change: Callable[[], L.Callback], average: Callable[[], L.Callback]
) -> None:
    module = Net()
    Prune(0.25)(module)
    with pytest.raises(InputValueError, match=r"WeightAveraging with use_buffers=True") as caught:
        trainer([change(), average()]).fit(module, loader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("before", [[], [training]], ids=["swap", "mask alone"])
def test_masks_that_come_after_the_copy_are_refused(
    before: list[Callable[[], L.Callback]],
) -> None:
    callbacks = [*(make() for make in before), EMAWeightAveraging(decay=0.9), pruning()]
    with pytest.raises(InputValueError, match="Pruning: callbacks has EMAWeightAveraging before"):
        trainer(callbacks).fit(Net(), loader())

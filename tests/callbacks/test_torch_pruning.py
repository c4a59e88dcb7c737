"""Torch's pruning beside quantised layers: refused in one sentence, or of other parameters."""

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from lightning_adls.callbacks import Calibration, OneShot, Pruning, QuantizationAwareTraining
from lightning_adls.errors import InputValueError
from lightning_adls.transforms import Prune, Quantize

RECIPE = {"*": "Integer(width=4, frac_width=2)"}


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        output: Tensor = self.net(batch[0])
        return output.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def fit(module: L.LightningModule, *callbacks: L.Callback) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=4))


CHANGES: dict[str, Callable[[], L.Callback]] = {
    "training": lambda: QuantizationAwareTraining(RECIPE),
    "calibration": lambda: Calibration(RECIPE),
    "pruning": lambda: Pruning(OneShot(0.5)),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"use_global_unstructured": False},
    {"use_lottery_ticket_hypothesis": False, "make_pruning_permanent": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_model_pruning_of_quantised_layers_is_refused(
    options: dict[str, Any], name: str, first: bool, before: bool
) -> None:
    module = Net()
    if before:
        Quantize(RECIPE)(module)
    callbacks = [CHANGES[name](), ModelPruning("l1_unstructured", amount=0.5, **options)]
    with pytest.raises(InputValueError, match="has ModelPruning, which cannot mask") as caught:
        fit(module, *callbacks[:: 1 if first else -1])
    assert "\n" not in str(caught.value)


def test_model_pruning_of_what_is_not_quantised_goes_on() -> None:
    module = Net()
    listed = ModelPruning("l1_unstructured", [(module.net[1], "weight")], amount=0.5)
    fit(module, QuantizationAwareTraining({"net.0": "Integer"}), listed)
    assert (module.state_dict()["net.1.weight"] == 0).sum() >= 2
    module = Net()
    biases = ModelPruning("l1_unstructured", parameter_names=["bias"], amount=0.5)
    fit(module, QuantizationAwareTraining(RECIPE), biases)
    state = module.state_dict()
    assert sum(int((state[f"net.{place}.bias"] == 0).sum()) for place in range(3)) >= 5


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "l1": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "random": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "norm": lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0),
    "channels": lambda layer: prune.random_structured(layer, "weight", 0.5, 0),
    "mask": lambda layer: prune.custom_from_mask(layer, "weight", torch.ones(4, 8)),
    "identity": lambda layer: prune.identity(layer, "weight"),
}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", WAYS)
def test_torch_functions_are_refused_and_change_nothing(name: str, masked: bool) -> None:
    model, x = nn.Sequential(nn.Linear(8, 4)), torch.randn(3, 8)
    Quantize(RECIPE)(model)
    if masked:
        Prune(0.25)(model)
    keys, expected = set(model.state_dict()), model(x)
    with pytest.raises(InputValueError, match=r"prune cannot mask the weight of a quantised"):
        WAYS[name](model[0])
    assert set(model.state_dict()) == keys
    assert torch.equal(model(x), expected)

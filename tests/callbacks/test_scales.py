"""What is said of optimizers that do not suit learned scales."""

import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adls import parameter_groups
from lightning_adls.callbacks import Calibration, QuantizationAwareTraining
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

LEARNED = {"*": {"weight": "LearnedInteger(width=4)", "input": "ResidualSign"}}
Parameters = list[tuple[str, nn.Parameter]]


def weights(named: Parameters) -> list[nn.Parameter]:
    return [parameter for name, parameter in named if name.endswith("weight")]


def scales(named: Parameters) -> list[nn.Parameter]:
    return [parameter for name, parameter in named if name.endswith("scales")]


class Net(L.LightningModule):
    """Makes its optimizers by a function of its named parameters; one, several or none."""

    def __init__(self, make: Callable[["Net", Parameters], Any]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        self.make = make
        self.automatic_optimization = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.manual_backward(self(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return self.make(self, list(self.named_parameters()))


def freeze(module: Net, named: Parameters) -> torch.optim.Optimizer:
    for parameter in scales(named):
        parameter.requires_grad_(False)
    return torch.optim.SGD(weights(named), lr=0.1)


SILENT: dict[str, Callable[[Net, Parameters], Any]] = {
    "all": lambda net, named: torch.optim.SGD([p for _, p in named], lr=0.1),
    "none": lambda net, named: None,
    "frozen": freeze,
    "groups": lambda net, named: torch.optim.AdamW(parameter_groups(net, 0.1)),
    "apart": lambda net, named: torch.optim.AdamW(parameter_groups(net, 0.1, scales_lr=1e-4)),
    "several": lambda net, named: [
        torch.optim.SGD(weights(named), lr=0.1, weight_decay=0.1),
        torch.optim.Adam(scales(named)),
    ],
    "other tensors": lambda net, named: torch.optim.SGD([torch.zeros(2)], lr=0.1, weight_decay=0.1),
}
MISSING = "no group of the optimizer has the learned scale net.0.input_scales and 3 others, so that"
DECAYED = r"weight_decay=0.5 pulls the learned scale net.{} to zero"
SAID: dict[str, tuple[Callable[[Net, Parameters], Any], str]] = {
    "by name": (lambda net, named: torch.optim.SGD(weights(named), lr=0.1), MISSING),
    "two by name": (
        lambda net, named: [torch.optim.SGD([p], lr=0.1) for p in weights(named)],
        MISSING,
    ),
    "decayed": (
        lambda net, named: torch.optim.SGD([p for _, p in named], lr=0.1, weight_decay=0.5),
        DECAYED.format("0.input_scales and 3 others"),
    ),
    "the second decayed": (
        lambda net, named: [
            torch.optim.SGD([p for _, p in named if p is not named[-1][1]], lr=0.1),
            torch.optim.AdamW([named[-1][1]], weight_decay=0.5),
        ],
        DECAYED.format("2.weight_scales"),
    ),
}


def said(module: L.LightningModule, *callbacks: L.Callback, data: Any = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_steps=2,
            max_epochs=1,
            limit_val_batches=0,
        ).fit(module, data or DataLoader(torch.ones(2, 8)))  # type: ignore[arg-type]
    texts = [str(each.message) for each in caught]
    return [text for text in texts if "scale" in text and "not fitted yet" not in text]


@pytest.mark.parametrize("make", SILENT.values(), ids=SILENT)
def test_groups_that_suit_scales_are_not_spoken_of(make: Callable[..., Any]) -> None:
    assert said(Net(make), QuantizationAwareTraining(LEARNED)) == []


@pytest.mark.parametrize(("make", "message"), SAID.values(), ids=SAID)
@pytest.mark.parametrize(
    "callback", [lambda: QuantizationAwareTraining(LEARNED), lambda: Calibration(LEARNED)]
)
def test_groups_that_do_not_are_named_in_one_sentence(
    make: Callable[..., Any], message: str, callback: Callable[[], L.Callback]
) -> None:
    ours = callback()
    (text,) = said(Net(make), ours)
    assert text.startswith(f"{type(ours).__name__}: {message}")
    assert "lightning_adls.parameter_groups(self, weight_decay)" in text


def test_formats_without_scales_are_not_spoken_of() -> None:
    assert said(Net(SAID["decayed"][0]), QuantizationAwareTraining({"*": "MXInt(width=4)"})) == []


def test_the_classifier_suits_scales(texts: TextData) -> None:
    network = bert(
        vocab_size=texts.vocab_size,
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=16,
    )
    classifier = TextClassifier(network, [Quantize(LEARNED)])
    assert said(classifier, QuantizationAwareTraining(LEARNED), data=texts) == []

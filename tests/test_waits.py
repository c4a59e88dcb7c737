"""A training step of a fit waits for no device: nothing of it is read on the host."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from waits import Waits

from lightning_adls.callbacks import Distillation, OneShot, Pruning, QuantizationAwareTraining
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.transforms import LoRA, Quantize, Transform

READERS: Mapping[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "equal": lambda x: torch.equal(x, x + 1),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("reader", READERS)
def test_each_way_to_read_a_tensor_is_noticed(reader: str) -> None:
    x = torch.arange(4.0)
    with Waits() as found:
        READERS[reader](x)
    assert found


def test_the_line_that_reads_is_named_wherever_python_is_installed() -> None:
    reading = compile("x.tolist()", "/opt/torch/lib/reading.py", "exec")
    with Waits() as found:
        exec(reading, {"x": torch.ones(2)})
    assert "/opt/torch/lib/reading.py:1" in found[0]


def test_computing_is_not_noticed(mlp: nn.Module, x: Tensor) -> None:
    with Waits() as found:
        mlp(x).square().sum().backward()
    assert not found


class Watch(L.Callback):
    """Watches the training steps of a fit from the third on, callbacks before it included."""

    def __init__(self) -> None:
        self.waits = Waits()
        self.watched = 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= 2:
            self.waits.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= 3:
            self.waits.__exit__(None, None, None)
            self.watched += 1


LEARNED = {"*": {"input": "LearnedInteger(width=4)", "weight": "ResidualSign"}}
FITS: Mapping[str, tuple[list[Transform], Callable[[], list[L.Callback]]]] = {
    "plain": ([], list),
    "quantised": ([Quantize({"*": "MXInt(width=4)"})], list),
    "learned scales": ([Quantize(LEARNED)], list),
    "lora": ([Quantize({"*": "Integer"}), LoRA(rank=2)], list),
    "callbacks": (
        [],
        lambda: [Pruning(OneShot(0.5)), QuantizationAwareTraining(LEARNED, start=0.2)],
    ),
    "distillation": (
        [],
        lambda: [Distillation(hidden=1.0), QuantizationAwareTraining(LEARNED)],
    ),
}


# Transformers reads once a step whether a batch has padding, to leave out the mask if not; frozen
# weights are compared with what they were, and formats read numbers, where that waits for nothing,
# on the CPU: test_layers_wait.py runs every format on another device, which has none to read.
KNOWN = (
    "transformers/masking_utils.py",
    "lightning_adls/layers/kept.py",
    "lightning_adls/formats/host.py",
)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", FITS)
def test_no_fit_waits_in_a_training_step(
    name: str,
    precision: Any,
    build: Callable[[list[Transform]], TextClassifier],
    texts: TextData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It reads labels on the CPU alone; see below.
    monkeypatch.setattr(TextClassifier, "_check_labels", lambda *_: None)
    transforms, callbacks = FITS[name]
    watch = Watch()
    trainer = L.Trainer(
        max_steps=5,
        accelerator="cpu",
        precision=precision,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[*callbacks(), watch],
    )
    texts.batch_size = 16
    trainer.fit(build(transforms), datamodule=texts)
    assert watch.watched == 3
    unknown = [read for read in watch.waits.found if not any(each in read for each in KNOWN)]
    assert not unknown


def test_labels_of_a_data_module_that_knows_its_classes_are_read_on_the_cpu_alone(
    build: Callable[[list[Transform]], TextClassifier],
) -> None:
    module, elsewhere = build([]), torch.zeros(2, dtype=torch.int64, device="meta")
    with pytest.raises(NotImplementedError):  # there is nothing to read
        module._check_labels(elsewhere)
    module._classes_are_known = True
    module._check_labels(elsewhere)
    with pytest.raises(InputValueError, match="labels=-1 is no class"):
        module._check_labels(torch.tensor([0, -1]))

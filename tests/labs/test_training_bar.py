"""What a training shows while it runs."""

from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import training_bar
from lightning_adls.labs.training_bar import EpochBar, TrainingBar
from lightning_adls.search import Budget


def trained(texts: TextData, build: Any, bar: TrainingBar) -> None:
    budget = Budget(epochs=1, reports=3, accelerator="cpu")
    budget.trainer(3, callbacks=[bar]).fit(build([]), datamodule=texts)


def test_a_training_without_a_terminal_is_told_in_lines(
    texts: TextData, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_bar, "_LINE_SECONDS", 0.0)
    output = StringIO()
    trained(texts, build, TrainingBar("start", Console(file=output)))
    lines = output.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"start: {step} of 3 steps" for step in (1, 2, 3)
    ]
    assert all("val acc. 0." in line for line in lines)


def test_a_short_training_without_a_terminal_says_nothing(texts: TextData, build: Any) -> None:
    output = StringIO()
    trained(texts, build, TrainingBar("start", Console(file=output)))
    assert output.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_that_goes_away(texts: TextData, build: Any) -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    trained(texts, build, TrainingBar("start", console))
    assert "3/3" in output.getvalue()
    assert "val acc." in output.getvalue()
    assert output.getvalue().endswith("\x1b[2K"), "the last line is erased"


def test_the_bar_of_epochs_has_no_letters_of_the_run_and_no_epoch_minus_2(
    tmp_path: Path, texts: TextData, build: Any
) -> None:
    bar = EpochBar()
    module: TextClassifier = build([])
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version="start"),
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[bar],
    )
    trainer.fit(module, datamodule=texts)
    assert "v_num" not in bar.get_metrics(trainer, module)
    assert bar._get_train_description(2).strip() == "Epoch 2"
    assert trainer.max_epochs == -1

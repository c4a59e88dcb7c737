"""What the labs' scripts share: the settings of a run, training and judging, results on screen."""

import hashlib
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData


def settings_of(
    config_yaml: str, *, passing: Collection[str], weights: str | None = None
) -> dict[str, Any]:
    """What decides the results of a run: all arguments but those that may change between calls.

    Args:
        config_yaml: All arguments of the script.
        passing: Names of arguments that may change, such as the run's name.
        weights: A checkpoint to start from; its content counts, not its path.
    """
    kept = {k: v for k, v in yaml.safe_load(config_yaml).items() if k not in {*passing, "weights"}}
    for key in ("cache_dir", "num_workers"):
        kept["data"].pop(key, None)
    if weights is not None:
        kept.pop("finetune", None)  # the weights stand in for it
        kept["weights"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return kept


def fine_tune(
    module: TextClassifier, texts: TextData, budget: Budget, folder: Path, seed: int
) -> None:
    """Train in full precision, once per run: its weights stay in ``folder/start.ckpt``."""
    path = folder / "start.ckpt"
    if not path.exists():
        print(f"Fine-tuning in full precision, {budget.epochs:g} epochs ...", flush=True)
        train(module, texts, budget, folder, "start", seed=seed, progress_bar=True)
        save_weights(module, path)
    module.load_weights(path)


def train(
    module: TextClassifier,
    texts: TextData,
    budget: Budget,
    folder: Path,
    name: str,
    callbacks: Sequence[L.Callback] = (),
    *,
    seed: int,
    progress_bar: bool = False,
) -> dict[str, float]:
    """Train within a budget; its curves are the TensorBoard run ``name`` below ``folder``.

    Returns:
        ``accuracy``, on the validation split at the end, and ``seconds``.

    Raises:
        FloatingPointError: If the loss is NaN in the end.
    """
    L.seed_everything(seed, verbose=False)
    # What an interrupted training left behind would be drawn into this one's curves.
    shutil.rmtree(folder / name, ignore_errors=True)
    logger = TensorBoardLogger(folder, name="", version=name)
    trainer = budget.trainer(len(texts.train_dataloader()), logger, callbacks, progress_bar)
    started = perf_counter()
    trainer.fit(module, datamodule=texts)
    seconds = perf_counter() - started
    if trainer.callback_metrics["val/loss"].isnan():
        raise FloatingPointError(f"{name}: val/loss is NaN after {trainer.global_step} steps")
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    return {"accuracy": accuracy, "seconds": round(seconds, 2)}


def validate(module: TextClassifier, texts: TextData, budget: Budget) -> float:
    """Accuracy on the validation split, in the budget's precision."""
    trainer = budget.trainer(1)
    trainer.validate(module, datamodule=texts, verbose=False)
    return float(trainer.callback_metrics["val/accuracy"])


def test(module: TextClassifier, texts: TextData, budget: Budget) -> float:
    """Accuracy on the test split: to be read once, for a model that is chosen already."""
    trainer = budget.trainer(1)
    trainer.test(module, datamodule=texts, verbose=False)
    return float(trainer.callback_metrics["test/accuracy"])


def save_weights(module: TextClassifier, path: Path) -> None:
    """Write a checkpoint that ``load_weights`` and ``scripts/train.py --weights`` read."""
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict()}, part)
    part.replace(path)

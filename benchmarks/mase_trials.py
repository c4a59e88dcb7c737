"""A trial of Lab 3 through MASE's flow and through ours, for ``mase_flow.py``.

Import it after ``lightning_adls.labs.waiting``: it imports torch.
"""

import argparse
import copy
import tempfile
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalPrediction

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import MissingPackageError
from lightning_adls.labs.task import Task
from lightning_adls.layers import builder
from lightning_adls.models import bert
from lightning_adls.search import FormatSpace
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import linear_layers, match

Rows = dict[str, list[dict[str, Any]]]
Template = str | dict[str, str | None] | None

# Every format that MASE has a linear layer for which can be called. Parameters that are left out
# take the lab's ranges in a study, and those of EIGHT_BITS in the table of epochs.
FORMATS: dict[str, Template] = {
    "unquantised": None,
    "Integer": "Integer",
    "MinifloatDenorm": "MinifloatDenorm",
    "MinifloatIEEE": "MinifloatIEEE",
    "Log": "Log",
    "BlockFP": "BlockFP",
    "BlockMinifloat": "BlockMinifloat",
    "BlockLog": "BlockLog",
    "MXInt": "MXInt",
    "MXFP": "MXFP",
    "Binary": {"weight": "Binary(scale=none)"},
    "BinaryScaling": dict.fromkeys(("input", "weight", "bias"), "Binary(scale=none)"),
    "BinaryResidualSign": {"input": "ResidualSign(scale=none)", "weight": "Binary(scale=none)"},
}
# Of the course's Lab 3, as in configs/lab3_mase.yaml.
RANGES: dict[str, list[Any]] = {
    "width": [8, 16, 32],
    "frac_width": [2, 4, 8],
    "exponent_width": [2, 3, 4],
    "exponent_bias": [3, 7, 15],
    "block_size": [(-1, 16), (-1, 32)],
    "MXInt.block_size": [16, 32],
    "MXFP.block_size": [16, 32],
    "MXFP.mantissa_width": [1, 3],
    "ResidualSign.levels": [2, 3],
}
EIGHT_BITS: dict[str, list[Any]] = {
    "width": [8],
    "frac_width": [4],
    "exponent_width": [4],
    "exponent_bias": [7],
    "block_size": [(-1, 16)],
    "MXInt.block_size": [16],
    "MXFP.block_size": [16],
    "MXFP.mantissa_width": [3],
    "ResidualSign.levels": [2],
}
NO_BACKWARD = ("BlockMinifloat", "MXInt", "MXFP")
"""MASE's own layers of these cannot be trained; see docs/mase_environment.md."""

PLAIN, GROUPED = "MASE", "MASE, like lengths"
OURS = {"ours float32": "32-true", "ours bf16": "bf16-mixed"}
FLOWS = (PLAIN, GROUPED, *OURS)


class Comparison:
    """The task, and a trial of it through each flow."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        data = partial(
            TextData,
            dataset=given.data,
            tokenizer=given.tokenizer,
            max_length=given.tokens,
            batch_size=given.batch,
            limit_train=given.reviews,
            limit_val=given.validation,
        )
        size = {} if given.checkpoint else {"max_position_embeddings": given.tokens}
        self.task = Task(
            data,
            partial(bert, checkpoint=given.checkpoint, **size),
            partial(
                TextClassifier, learning_rate=given.learning_rate, weight_decay=0.0, warmup=0.0
            ),
            seed=given.seed,
            weights=given.weights,
            loggers=(),
        )
        self.texts = self.task.texts
        self.steps = len(self.texts.train_dataloader())
        if given.start_epochs:
            start = self.task.build()
            budget = self.budget("32-true", epochs=given.start_epochs)
            budget.trainer(self.steps).fit(start, datamodule=self.texts)
            self.task.start_from(start)
        # Imports and copies are made before anything is timed.
        self.base, self.rows = self._base(), self._rows()
        self.no_chop = ""
        try:
            builder("chop")
        except MissingPackageError as error:
            self.no_chop = str(error)

    def warm_up(self) -> None:
        """Take a step of each flow: what is loaded or allocated first is in nobody's time."""
        few = {part: rows[: self.given.batch] for part, rows in self.rows.items()}
        self.through_mase(Quantize({"*": None}), "torch", few)
        trainer = L.Trainer(
            fast_dev_run=True,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.task.build(), datamodule=self.texts)

    def budget(self, precision: str, epochs: float = 1, reports: int = 1) -> Budget:
        """A trial of ours."""
        return Budget(epochs=epochs, reports=reports, precision=precision, accelerator="cpu")

    def layers(self, name: str) -> str:
        """Whose layers MASE's flow computes with."""
        if FORMATS[name] is None:
            return "torch"
        return "mase" if self.no_chop or name in NO_BACKWARD else "chop"

    def space(self, name: str, ranges: dict[str, list[Any]]) -> FormatSpace:
        """The recipes of a format: a choice for each tensor of each linear layer."""
        found = list(match(linear_layers(self.task.network), {"*": None}, "layers"))
        return FormatSpace.from_templates(found, {name: FORMATS[name]}, ranges)

    def _base(self) -> BertForSequenceClassification:
        """The network as Transformers builds it, with its own dropout."""
        config: Any = copy.deepcopy(self.task.network.config)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1
        network = BertForSequenceClassification(config)
        network.load_state_dict(self.task.network.state_dict())
        return network

    def _rows(self) -> Rows:
        """The rows that ours trains and validates on, as MASE's tokenised data set has them."""
        loaders = {"train": self.texts.train_dataloader(), "val": self.texts.val_dataloader()}
        return {
            part: [
                {"input_ids": ids[mask.bool()].tolist(), "labels": int(label)}
                for batch in loader
                for ids, mask, label in zip(
                    batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
                )
            ]
            for part, loader in loaders.items()
        }

    def padded(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch padded to its longest row, as Transformers' ``DataCollatorWithPadding`` does."""
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.texts.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def through_mase(
        self, recipe: Quantize, backend: str, rows: Rows, grouped: bool = False
    ) -> float:
        """Validation accuracy of a trial in Hugging Face's Trainer."""
        given = self.given
        network = copy.deepcopy(self.base)
        if backend != "torch":
            replace(recipe, backend=backend)(network)
        options: dict[str, Any] = {}
        if grouped:  # by the name that this version of Transformers has for it
            known = "group_by_length" in signature(TrainingArguments).parameters
            options = (
                {"group_by_length": True}
                if known
                else {"train_sampling_strategy": "group_by_length"}
            )
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=1,
                learning_rate=given.learning_rate,
                per_device_train_batch_size=given.batch,
                seed=given.seed,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                **options,
            )
            trainer = Trainer(
                network,
                arguments,
                data_collator=self.padded,
                train_dataset=rows["train"],
                eval_dataset=rows["val"],
                compute_metrics=_accuracy,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            return float(trainer.evaluate()["eval_accuracy"])

    def through_ours(self, recipe: Quantize, precision: str) -> float:
        """Validation accuracy of a trial in Lightning's Trainer."""
        module = self.task.build(recipe)
        trainer = self.budget(precision).trainer(self.steps)
        trainer.fit(module, datamodule=self.texts)
        return float(trainer.callback_metrics["val/accuracy"])

    def trial(self, name: str, flow: str, recipe: Quantize) -> float:
        """Validation accuracy of a trial through a flow."""
        if flow in OURS:
            return self.through_ours(recipe, OURS[flow])
        return self.through_mase(recipe, self.layers(name), self.rows, grouped=flow == GROUPED)


def _accuracy(found: EvalPrediction) -> dict[str, float]:
    right = np.argmax(found.predictions, axis=-1) == found.label_ids
    return {"accuracy": float(np.mean(right))}

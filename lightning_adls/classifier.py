"""The LightningModule: fine-tune a sequence classifier, quantised or not."""

from collections.abc import Callable, Mapping, Sequence
from inspect import currentframe
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_adls.checkpoints import CompressedCheckpoints
from lightning_adls.compiling import compile_layers, compile_whole, decide, machine
from lightning_adls.compiling.machines import key_of, mark_compiled
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.models.inputs import input_names, select
from lightning_adls.optimizers import adamw
from lightning_adls.transforms import Transform
from lightning_adls.transforms.configs import TRANSFORMS, describe, read
from lightning_adls.transforms.parameter_groups import parameter_groups
from lightning_adls.transforms.quantize import state_for

Batch = dict[str, Tensor]
Compile = bool | Literal["layers", "auto"]

_NO_INPUTS = ("labels", "index")  # Transformers would compute a loss of its own from labels


class TextClassifier(CompressedCheckpoints):
    """Fine-tune a sequence classifier after transforming it.

    Logs ``<stage>/loss`` and ``<stage>/accuracy`` for the stages train, val and test. Mixed
    precision and gradient clipping are the Trainer's (``precision="bf16-mixed"``,
    ``gradient_clip_val=1.0``).

    Args:
        model: Maps ``input_ids``, ``(batch, tokens)``, and any others that its forward has a name
            for and batches have an entry for (``attention_mask``, ``token_type_ids``), to an object
            whose ``logits`` are ``(batch, classes)``. It never gets ``labels`` and ``index``.
            Changed in place by ``transforms``.
        transforms: Applied to ``model`` once, in order. Checkpoints hold a description of those of
            this package, which is taken here as well: ``load_from_checkpoint(path, model=...)``
            with the plain network makes them again, and what callbacks did after them; see
            :class:`CompressedCheckpoints`.
        num_classes: Number of classes, for the accuracy.
        learning_rate: Peak of the schedule, above 0.
        weight_decay: Of AdamW, for matrices only: not for biases, norms and learned scales.
        warmup: Share of all steps in which the learning rate rises from 0, 0 to 1; it falls
            linearly to 0 over the rest.
        compile: True compiles the inner network in place; keys of the state dict stay as they are.
            A fit compiles one graph to train and one to validate, for batches of all sizes but one:
            a batch of a single row needs a graph of its own. Each mode takes one more graph for
            what runs before learned scales are fitted, and one more if rounding begins later in the
            fit. To validate, test and predict outside of a fit takes one graph. ``layers`` compiles
            only the repeated layers, once for all that are alike, which takes a fraction of the
            time; see :func:`lightning_adls.compiling.compile_layers`. Both run on an error where
            torch would give up and run eagerly. ``auto`` chooses ``layers`` or false by an estimate
            before the first step of a fit, says so in one line, and puts its choice in the place of
            ``auto`` in ``hparams``: checkpoints have it, and a fit that continues from one keeps
            it. Compiled and eager training differ in last bits and in the dropout that they draw.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        transforms: Sequence[Transform | Mapping[str, Any]] = (),
        num_classes: int = 2,
        learning_rate: float = 2e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        compile: Compile = False,
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise InputValueError(f"TextClassifier: learning_rate={learning_rate} is not above 0.")
        if not weight_decay >= 0:
            raise InputValueError(f"TextClassifier: weight_decay={weight_decay} is below 0.")
        if not 0 <= warmup <= 1:
            raise InputValueError(f"TextClassifier: warmup={warmup} is not in 0..1.")
        if compile not in (False, True, "layers", "auto"):
            raise InputValueError(
                f"TextClassifier: compile={compile!r} is not true, false, 'layers' or 'auto'."
            )
        changes = [_transform(transform) for transform in transforms]
        # Text and numbers only: a checkpoint with live objects does not load with weights_only.
        self.save_hyperparameters(
            {
                "transforms": [_description(change) for change in changes],
                "num_classes": num_classes,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "warmup": warmup,
                "compile": compile,
            },
            # Looking for it, Lightning leaves a cycle that holds the module until a collection.
            frame=currentframe(),
        )
        for change in changes:
            change(model)
        self.model = model
        self._input_names = input_names(model.forward)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self._classes_are_known = False
        # One per stage: validation runs within a training epoch, which must not lose its count.
        # They validate nothing, which would wait for the device.
        self.train_accuracy, self.val_accuracy, self.test_accuracy = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(3)
        )
        self._compile(compile)

    def _compile(self, compile: Compile) -> None:
        # Not torch.compile(self): self.log breaks it, and its wrapper changes every key.
        if compile == "layers":
            compile_layers(self.model)
        elif compile is True:
            compile_whole(self.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for any compressed module; ``compile="auto"`` becomes what the fit had chosen."""
        super().on_load_checkpoint(checkpoint)
        chosen = checkpoint.get("hyper_parameters", {}).get("compile", "auto")
        if self._in_fit() and self.hparams["compile"] == "auto" and chosen != "auto":
            self.print(f"compile=auto: {chosen or 'eager'}, as the checkpoint was trained")
            self._choose(chosen)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step, choose what ``compile="auto"`` is."""
        if self.hparams["compile"] != "auto":
            return
        batches = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
        kind = self.trainer.precision
        decision = decide(
            self.model, batches, batch["input_ids"].numel(), kind, machine(self.device.type)
        )
        # Processes are not equally fast, but have to compute the same.
        decision = self.trainer.strategy.broadcast(decision)
        self.print(f"compile=auto: {decision.reason}")
        self._choose(decision.compile)

    def _choose(self, compile: Compile) -> None:
        self.hparams["compile"] = compile
        self._compile(compile)

    def on_fit_end(self) -> None:
        """Note that the graphs are on disk, for a later choice."""
        if self.hparams["compile"] == "layers":
            mark_compiled(key_of(self.model, self.trainer.precision))

    def setup(self, stage: str) -> None:
        """Refuse data of more classes than there are outputs, before any work.

        Raises:
            ValueError: With both numbers, if the data module has a ``num_classes``.
        """
        num_classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", 0)
        self._require(num_classes)
        self._classes_are_known = num_classes > 0
        if self.trainer.global_rank and not _is_compiled(self.model):
            self._compile(self.hparams["compile"])  # what was sent to another process is not

    def _require(self, num_classes: int) -> None:
        if num_classes > self.hparams["num_classes"]:
            raise InputValueError(
                f"TextClassifier: num_classes={self.hparams['num_classes']} is below the "
                f"{num_classes} classes of the data; make the network and this module for "
                f"{num_classes} classes."
            )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits, ``(batch, classes)``, of int64 inputs, all ``(batch, tokens)``.

        For ``torch.export``, ONNX and, if ``example_input_array`` is set, Lightning's summary.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        return self.logits({name: value for name, value in inputs.items() if value is not None})

    def logits(self, batch: Batch) -> Tensor:
        """Logits, ``(batch, classes)``, of a batch as dataloaders give it."""
        inputs = select(batch, self._input_names)
        inputs = {name: value for name, value in inputs.items() if name not in _NO_INPUTS}
        if self.hparams["compile"] is True:
            # One graph for all sizes. Not by `dynamic=True`, which turns the constants of a format
            # into variables too: torch cannot differentiate some formats then.
            for tensor in inputs.values():
                torch._dynamo.maybe_mark_dynamic(tensor, [0, 1])
        logits: Tensor = self.model(**inputs).logits
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of a batch, in nats; nothing is logged."""
        return nn.functional.cross_entropy(self.logits(batch).float(), batch["labels"])

    def _check_labels(self, labels: Tensor) -> None:
        """Refuse labels that are no class, where a data module has not promised it.

        On a GPU such a label ends in an assertion that names neither it nor the number of classes;
        but to read it there waits for the GPU.
        """
        if self._classes_are_known and labels.device.type != "cpu":
            return
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        self._require(highest + 1)
        if lowest < 0:
            raise InputValueError(
                f"TextClassifier: labels={lowest} is no class; number the classes from 0."
            )

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        """Loss and logits of a batch, logged."""
        labels = batch["labels"]
        self._check_labels(labels)
        logits = self.logits(batch)
        if logits.shape[-1] != self.hparams["num_classes"]:
            raise InputValueError(
                f"TextClassifier: num_classes={self.hparams['num_classes']} is not the number of "
                f"outputs of the model, {logits.shape[-1]}; give it that number."
            )
        loss = nn.functional.cross_entropy(logits.float(), labels)
        accuracy: Metric = getattr(self, f"{stage}_accuracy")
        accuracy(logits, labels)
        evaluating = stage != "train"
        # A float: of whole numbers, Lightning rounds the mean over processes down.
        rows: Any = float(len(labels))
        self.log(f"{stage}/loss", loss, batch_size=rows, sync_dist=evaluating)
        self.log(
            f"{stage}/accuracy",
            accuracy,
            batch_size=len(labels),
            prog_bar=evaluating,
            on_step=False,
            on_epoch=True,
        )
        return loss, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; its share of a step's loss, where several devices make one."""
        loss = self._step(batch, "train")[0]
        return loss if self.trainer.world_size == 1 else loss * self._weight(len(batch["labels"]))

    def _weight(self, rows: int) -> Tensor:
        """What makes the mean over processes that of all their rows, where some have fewer."""
        total = torch.tensor(float(rows), device=self.device)
        torch.distributed.all_reduce(total)
        return rows * torch.distributed.get_world_size() / total

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Log loss and accuracy of one validation batch.

        Returns:
            ``class`` of each sample, ``(batch,)``, and its ``logits``, ``(batch, classes)``.
        """
        logits = self._step(batch, "val")[1]
        return {"class": logits.argmax(-1), "logits": logits}

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Log loss and accuracy of one test batch; ``class`` of each sample, ``(batch,)``."""
        return {"class": self._step(batch, "test")[1].argmax(-1)}

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Class and probabilities of each sample; ``index`` is its row in the data."""
        probabilities = self.logits(batch).float().softmax(-1)
        return {
            "index": batch["index"],
            "class": probabilities.argmax(-1),
            "probabilities": probabilities,
        }

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay over the Trainer's budget of steps."""
        groups = parameter_groups(self, self.weight_decay)
        optimizer = adamw(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise InputValueError(
                "TextClassifier: the Trainer has no end; set max_epochs or max_steps."
            )
        schedule = warmup_and_decay(int(steps), self.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer is told; by the norm over all shards, where FSDP has sharded it."""
        by_norm = gradient_clip_algorithm in (None, "norm")
        if isinstance(self.trainer.strategy, FSDPStrategy) and gradient_clip_val and by_norm:
            sharded: Any = self.trainer.strategy.model
            sharded.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def load_weights(self, path: str | Path, other_recipe: bool = False) -> None:
        """Take the weights of a checkpoint of the same network, quantised or not.

        Args:
            path: Of the checkpoint.
            other_recipe: Whether it may be rounded in another way than this module. A module that
                rounds nothing takes all weights, and a checkpoint that does not goes into any.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, or of another network or recipe.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict(state_for(self, checkpoint["state_dict"], other_recipe))
        except FileNotFoundError as error:
            raise MissingFileError(f"TextClassifier: there is no file {str(path)!r}.") from error
        except OSError as error:
            raise InputValueError(
                f"TextClassifier: {str(path)!r} cannot be read: {error.strerror}."
            ) from error
        except (KeyError, RuntimeError, UnpicklingError, EOFError) as error:
            raise InputValueError(
                f"TextClassifier: {path} does not fit the model: {error}"
            ) from error


def _is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


def _transform(transform: Transform | Mapping[str, Any]) -> Transform:
    """A transform from itself or from what a checkpoint holds of it."""
    if isinstance(transform, Mapping):
        return read(transform)
    if isinstance(transform, str):
        raise InputValueError(
            f"TextClassifier: transforms has {transform!r}, which is of an older checkpoint or a "
            "transform that cannot be read back; pass transforms that make the same model."
        )
    return transform


def _description(transform: Transform) -> dict[str, Any] | str:
    known = type(transform) in TRANSFORMS.values()
    return describe(transform) if known else str(transform)


def warmup_and_decay(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at each step: up to 1 over ``warmup * steps``, then down to 0.

    Example:
        >>> [warmup_and_decay(steps=4, warmup=0.5)(step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    rising = max(1, round(warmup * steps))
    return lambda step: min((step + 1) / rising, (steps - step) / max(1, steps - rising), 1.0)

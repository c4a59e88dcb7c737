"""What all models of a lab have in common: data, network, starting weights, training."""

import copy
import hashlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import nn

from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs.classified import Collecting
from lightning_adls.loggers import end, make_loggers
from lightning_adls.models import FROM_DATA, NetworkFactory, check_length
from lightning_adls.transforms import Transform

# What a lab's command line has for its task: see `labs.cli.run`.
TASK_ARGUMENTS: dict[str, tuple[type, set[str]]] = {
    "data": (TextData, set()),
    "model": (NetworkFactory, {*FROM_DATA}),
    "classifier": (TextClassifier, {"model", "transforms", "num_classes"}),
}


NETWORK = "model"  # where a module of a task has the network


class Task:
    """A text classification task, prepared once: the data are tokenised, the network is built.

    Everything that can be refused is refused here, before any work.

    Args:
        data: Makes the data set; called with ``seed``.
        model: Makes the network; called with those of ``num_classes``, ``vocab_size`` and
            ``pad_token_id`` that it takes.
        classifier: Makes the LightningModule; called with the network, ``transforms`` and
            ``num_classes``.
        seed: Of the network's random weights, of the data and of every training.
        budgets: Of all trainings there will be; see :meth:`Budget.check`.
        finetune: Budget of the training in full precision that the others start from, or None.
        weights: A checkpoint to start from instead, as ``adls train`` writes it.
        callbacks: Each is called before each training, for a callback of its own.
        loggers: Each is called before each training with ``save_dir``, ``name`` and ``version``.

    Attributes:
        texts: The data set, set up to train and validate on.
        network: The network that :meth:`build` copies.

    Raises:
        InputValueError: If an argument is wrong or does not fit the others.
    """

    def __init__(
        self,
        data: Callable[..., TextData],
        model: Callable[..., nn.Module],
        classifier: Callable[..., TextClassifier],
        *,
        seed: int = 0,
        budgets: Sequence[Budget | None] = (),
        finetune: Budget | None = None,
        weights: str | Path | None = None,
        callbacks: Sequence[Callable[[], L.Callback]] = (),
        loggers: Sequence[Callable[..., Logger]] = (
            partial(TensorBoardLogger, default_hp_metric=False),
        ),
    ) -> None:
        self.classifier = classifier
        self.seed = seed
        self.finetune = finetune
        self.weights = weights
        self.callbacks = callbacks
        self.loggers = loggers
        if not 0 <= seed < 2**32:
            raise InputValueError(f"Task: seed={seed} is not in 0..{2**32 - 1}.")
        for budget in (*budgets, finetune):
            if budget is not None:
                budget.check_repeatable()
        L.seed_everything(seed, verbose=False)
        self.texts = data(seed=seed)
        self.texts.prepare_data()
        self.texts.setup("fit")
        self.num_classes = self.texts.num_classes
        self.network = NetworkFactory(model)(
            num_classes=self.num_classes,
            vocab_size=self.texts.vocab_size,
            pad_token_id=self.texts.pad_token_id,
        )
        check_length(self.network, self.texts.max_length)
        start = self.build()
        if weights is not None:
            start.load_weights(weights)
            self.start_from(start)

    def start_from(self, module: TextClassifier) -> None:
        """Let all later models start from the weights of ``module``, which no transform changed."""
        self.network.load_state_dict(module.model.state_dict())

    def build(
        self, *transforms: Transform, classifier: Callable[..., TextClassifier] | None = None
    ) -> TextClassifier:
        """A fresh module on a copy of the network with its starting weights, always the same.

        Args:
            transforms: Change the network, in order.
            classifier: Makes the module; by default that of the task.
        """
        L.seed_everything(self.seed, verbose=False)  # adapters are drawn
        make = classifier or self.classifier
        network = copy.deepcopy(self.network)
        return make(network, transforms=list(transforms), num_classes=self.num_classes)

    def train(
        self,
        module: TextClassifier,
        budget: Budget,
        folder: Path,
        name: str,
        callbacks: Sequence[L.Callback] = (),
        answers: Path | None = None,
    ) -> dict[str, float]:
        """Train within a budget; its curves are the TensorBoard run ``name`` below ``folder``.

        Args:
            module: From :meth:`build`.
            budget: What the training may spend.
            folder: Of the curves.
            name: Of the training.
            callbacks: Beside those of the task.
            answers: File for what the model says of each validation row in the end.

        Returns:
            ``accuracy``, on the validation split at the end, and ``seconds``.

        Raises:
            FloatingPointError: If the loss is NaN in the end.
        """
        L.seed_everything(self.seed, verbose=False)
        # What an interrupted training left behind would be drawn into this one's curves.
        shutil.rmtree(folder / name, ignore_errors=True)
        loggers = make_loggers(self.loggers, folder, "", name)
        own = [make() for make in self.callbacks]
        steps = batches_of(self.texts)
        watching = _watching(answers)
        trainer = budget.trainer(steps, loggers, [*callbacks, *own, *watching])
        started = perf_counter()
        try:
            trainer.fit(module, datamodule=self.texts)
        finally:
            release(trainer)
        seconds = perf_counter() - started
        for logger in loggers:
            end(logger)
        metrics = trainer.callback_metrics
        if metrics["val/loss"].isnan():
            raise FloatingPointError(f"{name}: val/loss is NaN after {trainer.global_step} steps")
        for collecting in watching:
            collecting.write()
        return {"accuracy": float(metrics["val/accuracy"]), "seconds": round(seconds, 2)}

    def validate(
        self, module: TextClassifier, budget: Budget, answers: Path | None = None
    ) -> float:
        """Accuracy on the validation split, on one device, in the budget's precision.

        Args:
            module: From :meth:`build`.
            budget: Has the precision.
            answers: File for what the model says of each row.
        """
        watching = _watching(answers)
        trainer = budget.on_one_device().trainer(1, callbacks=watching)
        trainer.validate(module, datamodule=self.texts, verbose=False)
        release(trainer)
        for collecting in watching:
            collecting.write()
        return float(trainer.callback_metrics["val/accuracy"])

    def test(
        self, module: TextClassifier, budget: Budget, answers: Path | None = None
    ) -> dict[str, float]:
        """Accuracy on the test split: to be read once, for a model that is chosen already.

        Args:
            module: From :meth:`build`.
            budget: Has the precision.
            answers: File for what the model says of each row.

        Returns:
            ``accuracy``, and the number of ``rows`` that it is the mean of.
        """
        watching = _watching(answers)
        trainer = budget.on_one_device().trainer(1, callbacks=watching)
        trainer.test(module, datamodule=self.texts, verbose=False)
        release(trainer)
        for collecting in watching:
            collecting.write()
        accuracy = float(trainer.callback_metrics["test/accuracy"])
        return {"accuracy": accuracy, "rows": self.texts.row_counts["test"]}


def _watching(answers: Path | None) -> list[Collecting]:
    """Nothing, or the callback that keeps what a model says of each row."""
    return [] if answers is None else [Collecting(answers)]


def digest_of(path: str | Path) -> str:
    """What a file holds, as a number: the same content at another path is the same.

    Raises:
        InputValueError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputValueError(f"weights={str(path)!r} cannot be read: {error.strerror}.") from error

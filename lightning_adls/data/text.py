"""TextData: labelled texts from the hub, files or the built-in reviews, tokenised and batched."""

import hashlib
import logging
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adls.data.batching import (
    Batch,
    Frame,
    LengthBatches,
    Rows,
    Truncation,
)
from lightning_adls.data.columns import label_column, text_column
from lightning_adls.data.division import TEST_SEED, balanced_order, divide
from lightning_adls.data.resuming import Settling, place_of
from lightning_adls.data.sources import Source, open_source
from lightning_adls.data.tokens import Cached, Encoder, cached, load_encoder, without_line_breaks
from lightning_adls.errors import InputValueError

_logger = logging.getLogger(__name__)


@dataclass(eq=False)  # eq would make it unhashable
class TextData(L.LightningDataModule):
    """A labelled text data set, tokenised once, with validation rows carved off the training split.

    Batches are ``input_ids`` and ``attention_mask``, int64, ``(batch, tokens)``, and ``labels``,
    int64, ``(batch,)``; those of ``predict_dataloader`` also have ``index``, the row of the test
    split that each prediction belongs to. Rows of like length share a batch. To predict, texts need
    no labels: those without have -1 in ``labels``.

    Args:
        dataset: ``"reviews"`` (built in), a file, a folder, or a name on the hub.
        subset: Configuration of a data set on the hub, such as ``"sst2"`` of ``"nyu-mll/glue"``.
        tokenizer: A tokenizer's name on the hub, or its folder. Reviews bring their own.
        text: Column of the texts.
        label: Column of the labels: integers 0 to classes - 1, or strings, around which blanks do
            not count.
        test_split: Split to test on. A single file has none: rows are carved off.
        max_length: Most tokens of a row, special ones included, 8 or more.
        truncation: What a longer text keeps: ``"head"``, ``"tail"`` or ``"head_tail"``.
        batch_size: Rows of a training batch, per device.
        eval_batch_size: Rows of a batch in validation, test and prediction, per device.
        val_fraction: Share of the training split to validate on, between 0 and 1.
        limit_train: Most rows to train on, or None for all; the class balance is kept.
        limit_val: Most rows to validate on, or None for all.
        limit_test: Most rows to test on, or None for all; the class balance is kept.
        num_workers: Processes that make batches; 0 is enough, they are made quickly.
        seed: Decides the rows to validate on, those that ``limit_train`` and ``limit_val`` keep,
            and the order of training and validation batches. The rows to test on, and their
            order, are the same for every seed.
        cache_dir: Where tokenised texts are kept; None is ``lightning_adls`` in
            ``$XDG_CACHE_HOME``, or else in ``~/.cache``.
        encoding: Of files of text, such as ``"latin-1"`` or ``"utf-16"``.
        special_tokens: Whether the name of a special token within a text, such as ``[SEP]``, is
            that token; by default it is text.
        keep_repeats_together: Whether rows of the same text all go to train or all to validation,
            and in a single file all to test. Else they fall as they fall; ``repeated_rows`` counts
            them.

    Raises:
        ValueError: If an argument is out of range, or (in ``prepare_data``) does not fit the data.
        FileNotFoundError: If the data set or the tokenizer is not there (in ``prepare_data``).
    """

    dataset: str = "reviews"
    subset: str | None = None
    tokenizer: str | None = None
    text: str = "text"
    label: str = "label"
    test_split: str = "test"
    max_length: int = 256
    truncation: Truncation = "head"
    batch_size: int = 32
    eval_batch_size: int = 64
    val_fraction: float = 0.1
    limit_train: int | None = None
    limit_val: int | None = None
    limit_test: int | None = None
    num_workers: int = 0
    seed: int = 0
    cache_dir: str | None = None
    encoding: str = "utf-8"
    special_tokens: bool = False
    keep_repeats_together: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._check()
        self.save_hyperparameters()
        self._parts: dict[str, Rows] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._class_names: list[str] = []
        self._encoder: Encoder | None = None
        self._repeated_rows = 0
        self._resumed: tuple[int, int] | None = None

    def _check(self) -> None:
        lowest = {"max_length": 8, "num_workers": 0, "seed": 0} | dict.fromkeys(
            ["batch_size", "eval_batch_size", "limit_train", "limit_val", "limit_test"], 1
        )
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputValueError(
                    f"TextData: {name}={value} is too small; it must be {least} or more."
                )
        if not 0 < self.val_fraction < 1:
            raise InputValueError(
                f"TextData: val_fraction={self.val_fraction} is not between 0 and 1; 0.1 is usual."
            )
        if self.truncation not in get_args(Truncation):
            raise InputValueError(
                f"TextData: truncation={self.truncation!r} is none of {get_args(Truncation)}."
            )
        try:
            "a".encode(self.encoding)
        except LookupError as error:
            raise InputValueError(
                f"TextData: encoding={self.encoding!r} is none that Python knows; files of text "
                "are mostly in 'utf-8', 'utf-16', 'latin-1' or 'cp1252'."
            ) from error
        if self.test_split == "train":
            raise InputValueError("TextData: test_split='train' is trained on; name another split.")
        if (self.tokenizer is None) != (self.dataset == "reviews"):
            raise InputValueError(
                f"TextData: tokenizer={self.tokenizer!r} does not go with "
                f"dataset={self.dataset!r}; 'reviews' brings its own, so leave it out; other data "
                "need the model's, such as 'bert-base-uncased' or a folder."
            )

    def prepare_data(self) -> None:
        """Read, check and tokenise, in one process per machine, what the run needs."""
        self._load(self.trainer.state.fn or "fit" if self.trainer else "fit")

    def setup(self, stage: str = "fit") -> None:
        """Load the rows to train and validate on, or for "test" and "predict" those to test on."""
        self._parts |= self._load(stage)
        if self._repeated_rows:
            _logger.info(
                "TextData: %d rows to validate on repeat a text that is trained on; "
                "keep_repeats_together=True keeps them apart.",
                self._repeated_rows,
            )
        self._resumed = None
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        if not any(isinstance(callback, Settling) for callback in callbacks):
            callbacks.append(Settling())

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the batch within it that training takes next."""
        if self.trainer is None:
            return {}
        epoch, batch = place_of(self.trainer.fit_loop)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Train from there, if this is a fit; Lightning calls this before it asks for batches."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self._resumed = state_dict["epoch"], state_dict["batch"]

    def _load(self, stage: str) -> dict[str, Rows]:
        """The rows of a stage, read once: a search prepares and sets up the same data each trial.

        Files that change meanwhile are not read again; another object reads them anew.
        """
        known, settings = self._loaded.get(stage), astuple(self)
        if known is None or known.settings != settings:
            parts = self._read(stage)
            known = self._loaded[stage] = _Loaded(
                settings, parts, self._class_names, self._encoder, self._repeated_rows
            )
        self._class_names, self._encoder = known.class_names, known.encoder
        self._repeated_rows = known.repeated_rows
        return known.parts

    def _read(self, stage: str) -> dict[str, Rows]:
        source = open_source(self.dataset, self.subset, self.encoding)
        encoder = load_encoder(self.tokenizer, self.special_tokens)
        if len(encoder.prefix) + len(encoder.suffix) >= self.max_length:
            raise InputValueError(
                f"TextData: max_length={self.max_length} leaves no room for the text."
            )
        split, parts, self._class_names = "train", {}, []
        needed = stage != "predict"
        if needed or source.can_train(self.label):
            labels, numbers, self._class_names = self._labels(source, "train")
            parts = self._divide(labels, numbers, source.divided)
        self._encoder = encoder
        if stage not in ("test", "predict"):
            parts = {name: parts[name] for name in ("train", "val")}
        elif source.divided or not parts:
            split = self.test_split if source.divided else "train"
            labels, _, _ = self._labels(source, split, self._class_names, needed)
            parts = {"test": balanced_order(labels, [TEST_SEED])[: self.limit_test]}
        else:
            parts = {"test": parts["test"]}
        # Only the rows that limits leave are tokenised; without limits that is all of them.
        wanted = torch.cat(list(parts.values())).sort().values
        tokens = self._tokens(source, split, wanted, encoder)
        frame = Frame(encoder.prefix, encoder.suffix, encoder.pad, self.max_length, self.truncation)
        texts = {name: torch.searchsorted(wanted, rows) for name, rows in parts.items()}
        return {
            name: Rows(tokens["ids"], tokens["starts"], texts[name], labels[rows], rows, frame)
            for name, rows in parts.items()
        }

    def _divide(self, labels: Tensor, texts: Tensor, has_test: bool) -> dict[str, Tensor]:
        """Choose the rows of the training file to train, validate and (if need be) test on."""
        same = texts if self.keep_repeats_together else None
        parts = divide(labels, self.val_fraction, self.seed, with_test=not has_test, same=same)
        purposes = {"train": "to train on", "val": "to validate on"}
        if not has_test:
            purposes["test"] = "to test on"
        for name, purpose in purposes.items():
            if not len(parts[name]):
                raise InputValueError(
                    f"TextData: val_fraction={self.val_fraction} leaves none of the {len(labels)} "
                    f"rows {purpose}; change it."
                )
        limits = {"train": self.limit_train, "val": self.limit_val, "test": self.limit_test}
        parts = {name: rows[: limits[name]] for name, rows in parts.items()}
        self._repeated_rows = int(torch.isin(texts[parts["val"]], texts[parts["train"]]).sum())
        return parts

    def _labels(
        self, source: Source, split: str, trained: list[str] | None = None, needed: bool = True
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Check a split; get its labels, a number for each text that differs, and class names."""

        def make() -> Cached:
            source.check(self.test_split, training=trained != [])
            table = source.read(split)
            numbers = text_column(table, self.text).dictionary_encode().indices.to_numpy()
            labels, names = label_column(table, self.label, trained, needed=needed)
            return Cached({"labels": labels, "texts": torch.tensor(numbers).long()}, names)

        key = {
            "source": source.fingerprint(split),
            "columns": [self.text, self.label],
            "test_split": self.test_split,
            "trained": trained,
            "needed": needed,
        }
        made = cached(self._folder, key, make)
        return made.tensors["labels"], made.tensors["texts"], made.words

    def _tokens(
        self, source: Source, split: str, rows: Tensor, encoder: Encoder
    ) -> dict[str, Tensor]:
        """Tokenise some rows of a split: ``ids`` and ``starts`` of ``Rows``."""

        def make() -> Cached:
            table = source.read(split)
            texts = text_column(table, self.text).take(rows.numpy()).to_pylist()
            texts = [without_line_breaks(text) for text in texts]
            return Cached(encoder.encode(texts, table.where), [])

        key = {
            "source": source.fingerprint(split),
            "text": self.text,
            "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
            "tokenizer": encoder.digest,
        }
        return cached(self._folder, key, make).tensors

    @property
    def _folder(self) -> Path:
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.cache_dir or Path(user, "lightning_adls")).expanduser()

    @property
    def _ready_encoder(self) -> Encoder:
        if self._encoder is None:
            raise RuntimeError("TextData: nothing is loaded yet; call prepare_data() and setup().")
        return self._encoder

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return self._class_names if self._ready_encoder else []

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def row_counts(self) -> dict[str, int]:
        """Number of rows of each split that is set up, by ``train``, ``val`` and ``test``."""
        return {part: len(rows) for part, rows in self._parts.items()}

    @property
    def repeated_rows(self) -> int:
        """Number of rows to validate on whose text is also trained on."""
        return self._repeated_rows if self._ready_encoder else 0

    def class_counts(self, part: str) -> dict[str, int]:
        """Rows of each class in ``train``, ``val`` or ``test``; empty unless it was set up."""
        if part not in self._parts:
            return {}
        labels = self._parts[part].labels
        # Rows to predict may have none.
        counts = labels[labels >= 0].bincount(minlength=self.num_classes).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the tokenizer."""
        return self._ready_encoder.vocab_size

    @property
    def pad_token_id(self) -> int:
        """The token that batches are padded with."""
        return self._ready_encoder.pad

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches by length within shuffled windows, in an order of ``seed`` and the epoch.

        The epoch is that of the last Trainer that this object was used with, and 0 before: called
        by hand, the order depends on what was trained. ``calibration_batches`` does not.
        """
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches by length, always in the same order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches by length, always in the same order."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test rows, with ``index``."""
        return self._loader("test", self.eval_batch_size, with_index=True)

    def predicted_texts(self, rows: Sequence[int]) -> list[str]:
        """The texts that predictions name by their ``index``, as the data have them."""
        source = open_source(self.dataset, self.subset, self.encoding)
        table = source.read(self.test_split if source.divided else "train")
        texts: list[str] = text_column(table, self.text).take(list(rows)).to_pylist()
        return texts

    def calibration_batches(self, count: int) -> list[Batch]:
        """The first training batches of the first epoch, such as to choose ranges of formats on.

        They are of the data and the ``seed`` alone: the same in every process, on every rank and
        after any training.

        Args:
            count: Batches, 1 or more. An epoch that has fewer gives all of its batches.

        Raises:
            ValueError: If ``count`` is below 1.
        """
        if count < 1:
            raise InputValueError(
                f"TextData: count={count} is below 1; calibrate on a batch or more."
            )
        rows = self.rows("train")
        batches = LengthBatches(rows.lengths, self.batch_size, shuffle=True, seed=self.seed)
        return [rows[batch] for batch in islice(batches, count)]

    def rows(self, part: str) -> Rows:
        """The tokenised rows of ``train``, ``val`` or ``test``, in the order of the data.

        Raises:
            RuntimeError: If they are not set up.
        """
        if part not in self._parts:
            raise RuntimeError(
                f"TextData: the {part} rows are not loaded; call prepare_data() and "
                f"setup({'test' if part == 'test' else 'fit'!r})."
            )
        return self._parts[part]

    def _loader(
        self, part: str, batch_size: int, shuffle: bool = False, with_index: bool = False
    ) -> DataLoader[Batch]:
        rows = copy(self.rows(part))
        rows.with_index = with_index
        ranks = (self.trainer and self.trainer.distributed_sampler_kwargs) or {}
        seed = TEST_SEED if part == "test" else self.seed
        batches = LengthBatches(rows.lengths, batch_size, shuffle=shuffle, seed=seed, **ranks)
        if getattr(self.trainer, "overfit_batches", 0):
            # Lightning would put a sampler of single rows in place of ours.
            fixed: Any = [rows[batch] for batch in batches]
            return DataLoader(fixed, batch_size=None)
        if self.trainer and shuffle:
            # In a resumed run, workers fetch batches before Lightning tells the epoch.
            batches.resume(*self._resumed or (self.trainer.current_epoch, 0))
        if self.num_workers:
            # Else the tokenizers library warns in every worker that is forked after tokenising.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return _Loader(
            rows,
            batch_size=None,  # the sampler yields batches, and rows[batch] makes one
            sampler=batches,
            # Of its own: each new iterator draws a seed for its workers, from the global one else.
            generator=torch.Generator().manual_seed(self.seed),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=bool(self.trainer and self.trainer.strategy.root_device.type == "cuda"),
        )


@dataclass(frozen=True)
class _Loaded:
    """What was read for a stage, and the arguments of the data by which it was."""

    settings: tuple[Any, ...]
    parts: dict[str, Rows]
    class_names: list[str]
    encoder: Encoder | None
    repeated_rows: int


class _Loader(DataLoader[Batch]):
    """Has the methods by which Lightning knows that it keeps its place: in TextData's state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            raise InputValueError(
                "TextData: the checkpoint is of an earlier version, which kept the place in the "
                "data in another form; load its weights and fit without ckpt_path."
            )

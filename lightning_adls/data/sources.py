"""Where labelled texts come from: files, a folder, the hub, or the built-in reviews.

A source names its splits, tells cheaply whether one has changed, and reads it as an Arrow table;
``columns`` checks what was read.
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lightning_adls.data import reviews
from lightning_adls.data.columns import Table
from lightning_adls.errors import InputValueError, MissingFileError

_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_SHARD = re.compile(r"-\d+-of-\d+$")  # "train-00000-of-00002.parquet" is a part of "train"


class Source(ABC):
    """Splits of labelled texts; ``name`` is what the user called it."""

    name: str
    divided = True  # False where all rows lie in "train" and a test split must be carved off

    @abstractmethod
    def splits(self) -> list[str]:
        """Name the splits there are."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Describe a split without reading it: where its texts change, the string changes."""

    @abstractmethod
    def read(self, split: str) -> Table:
        """Read a split that is there."""

    def check(self, test_split: str) -> None:
        """Refuse a source that lacks the training or the test split.

        Raises:
            ValueError: Naming the splits there are.
        """
        splits = self.splits()
        if "train" not in splits:
            raise InputValueError(
                f"TextData: dataset={self.name!r} has no split 'train'; it has {splits}. In a "
                f"folder it is train{' or train'.join(_SUFFIXES)} or train/<class>/*.txt."
            )
        if self.divided and test_split not in splits:
            raise InputValueError(
                f"TextData: test_split={test_split!r} is no split of {self.name!r}; "
                f"it has {splits}."
            )


class Reviews(Source):
    """The built-in data set."""

    name = "reviews"

    def splits(self) -> list[str]:
        return ["train", "test"]

    def fingerprint(self, split: str) -> str:
        code = Path(reviews.__file__).read_bytes()  # the texts are as old as what generates them
        return f"reviews {hashlib.sha256(code).hexdigest()} {split}"

    def read(self, split: str) -> Table:
        texts, labels = zip(*reviews.split(split), strict=True)
        rows = pa.table({"text": texts, "label": labels})
        return Table(rows, f"reviews ({split})", {"label": reviews.CLASS_NAMES})


@dataclass
class Hub(Source):
    """A data set of the Hugging Face hub, or of its cache on this machine."""

    name: str
    subset: str | None

    @cached_property
    def _loaded(self) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.name, self.subset)
        except (OSError, ValueError, RuntimeError) as error:
            raise MissingFileError(
                f"TextData: dataset={self.name!r} subset={self.subset!r} is no file or folder "
                f"here, and the hub did not give it; check the spelling and the network. {error}"
            ) from error

    def splits(self) -> list[str]:
        return list(self._loaded)

    def fingerprint(self, split: str) -> str:
        # What the hub keeps under a name hardly ever changes, and asking it takes seconds.
        return f"hub {self.name} {self.subset} {split}"

    def read(self, split: str) -> Table:
        rows = self._loaded[split]
        names = {key: getattr(value, "names", None) for key, value in rows.features.items()}
        known = {key: value for key, value in names.items() if value}
        return Table(rows.with_format("arrow")[:], f"{self.name!r} ({split})", known)


@dataclass
class Files(Source):
    """A file, a folder of files named after their splits, or a tree ``split/class/*.txt``."""

    path: Path

    def __post_init__(self) -> None:
        self.name = str(self.path)
        self.divided = self.path.is_dir()

    def splits(self) -> list[str]:
        if not self.divided:
            return ["train"]
        files = [_SHARD.sub("", p.stem) for p in self.path.iterdir() if p.suffix in _SUFFIXES]
        trees = [p.name for p in self.path.iterdir() if any(p.glob("*/*.txt"))]
        return sorted({*files, *trees})

    def _entries(self, split: str) -> list[os.DirEntry[str]]:
        if not self.divided:
            return [entry for entry in os.scandir(self.path.parent) if entry.name == self.path.name]
        files = [e for e in os.scandir(self.path) if Path(e.name).suffix in _SUFFIXES]
        if shards := [e for e in files if _SHARD.sub("", Path(e.name).stem) == split]:
            return sorted(shards, key=lambda entry: entry.path)
        # The reviews without a label in the tree of the Large Movie Review Dataset.
        classes = [p for p in (self.path / split).glob("*/") if p.name != "unsup"]
        texts = [e for p in classes for e in os.scandir(p) if e.name.endswith(".txt")]
        return sorted(texts, key=lambda entry: entry.path)

    def fingerprint(self, split: str) -> str:
        root = len(str(self.path))
        stats = [(entry.path[root:], entry.stat()) for entry in self._entries(split)]
        return repr([str(self.path.resolve()), [(n, s.st_size, s.st_mtime_ns) for n, s in stats]])

    def read(self, split: str) -> Table:
        paths = [Path(entry) for entry in self._entries(split)]
        try:
            if paths[0].suffix == ".txt":
                texts = [path.read_text(encoding="utf-8") for path in paths]
                rows = pa.table({"text": texts, "label": [path.parent.name for path in paths]})
            else:
                rows = pa.concat_tables([_read_file(path) for path in paths])
        except (pa.ArrowException, UnicodeError) as error:
            raise InputValueError(
                f"TextData: dataset={self.name!r} ({split}) cannot be read; {error}"
            ) from error
        return Table(rows, f"{self.name!r} ({split})")


def _read_file(path: Path) -> Any:
    # One block: types are inferred from all rows, and no row is longer than a block.
    block_size = min(path.stat().st_size + 1, 2**31 - 1)
    match path.suffix:
        case ".parquet":
            return pa.parquet.read_table(path)
        case ".jsonl":
            return pa.json.read_json(path, pa.json.ReadOptions(block_size=block_size))
        case suffix:
            return pa.csv.read_csv(
                path,
                pa.csv.ReadOptions(block_size=block_size),
                pa.csv.ParseOptions(
                    delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True
                ),
            )


def looks_like_a_path(name: str) -> bool:
    """Tell a path from a name on the hub, which is ``name`` or ``owner/name``."""
    path = Path(name)
    written_so = path.is_absolute() or name.startswith((".", "~")) or path.suffix in _SUFFIXES
    return written_so or len(path.parts) > 2


def open_source(dataset: str, subset: str | None) -> Source:
    """Find what ``TextData`` means by its ``dataset`` and ``subset``.

    Raises:
        FileNotFoundError: If ``dataset`` is written like a path and is not there.
        ValueError: If it is a file of a kind that is not read.
    """
    if dataset == "reviews":
        return Reviews()
    path = Path(dataset).expanduser()
    if path.is_file() and path.suffix not in _SUFFIXES:
        raise InputValueError(
            f"TextData: dataset={dataset!r} is not of a kind that is read: {', '.join(_SUFFIXES)}."
        )
    if path.exists():
        return Files(path)
    if looks_like_a_path(dataset):
        raise MissingFileError(
            f"TextData: dataset={dataset!r} is no file or folder (looked in {Path.cwd()})."
        )
    return Hub(dataset, subset)

"""Where labelled texts come from: files, a folder, the hub, or the built-in reviews.

A source names its splits, tells cheaply whether one has changed, and reads it as an Arrow table;
``columns`` checks what was read.
"""

import codecs
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
from lightning_adls.data.columns import UNLABELLED, Table, label_column, plain
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.hub import asking_hub, one_line

_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_SHARD = re.compile(r"-\d+-of-\d+$")  # "train-00000-of-00002.parquet" is a part of "train"
# What save_to_disk() leaves in the folder of one data set, and in that of one with splits.
_SAVED, _SAVED_SPLITS = ("dataset_info.json", "state.json"), ("dataset_dict.json",)
_HEAD = 64  # characters at the start of a file that show how it is written


class Source(ABC):
    """Splits of labelled texts; ``name`` is what the user called it."""

    name: str
    divided = True  # False where all rows lie in "train" and a test split must be carved off
    without_test = ""  # what to do where there are splits, but none to test on

    @abstractmethod
    def splits(self) -> list[str]:
        """Name the splits there are."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Describe a split without reading it: where its texts change, the string changes."""

    @abstractmethod
    def read(self, split: str) -> Table:
        """Read a split that is there."""

    def can_train(self, label: str) -> bool:
        """Whether there is a training split with labels; to predict, none is needed."""
        if self.divided:
            return "train" in self.splits()
        labels, _ = label_column(self.read("train"), label, needed=False)
        return bool((labels != UNLABELLED).any())

    def check(self, test_split: str, *, training: bool = True) -> None:
        """Refuse a source that lacks the test split or, where it is needed, the training split.

        Raises:
            ValueError: Naming the splits there are.
        """
        splits = self.splits()
        if training and "train" not in splits:
            raise InputValueError(
                f"TextData: dataset={self.name!r} has no split 'train'; it has {splits}. In a "
                f"folder it is train{' or train'.join(_SUFFIXES)} or train/<class>/*.txt."
            )
        if self.divided and test_split not in splits:
            raise InputValueError(
                f"TextData: test_split={test_split!r} is no split of {self.name!r}; it has "
                f"{splits}{self.without_test}."
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

        with asking_hub() as unreachable:
            try:
                return datasets.load_dataset(self.name, self.subset)
            except (OSError, ValueError, RuntimeError) as error:
                raise MissingFileError(
                    f"TextData: dataset={self.name!r} subset={self.subset!r} is no file or folder "
                    f"here, and the hub did not give it ({unreachable or one_line(error)}); check "
                    "the spelling and the network, or give the path of a file or folder."
                ) from error

    def splits(self) -> list[str]:
        return list(self._loaded)

    def can_train(self, label: str) -> bool:
        return True  # else it would be asked at every prediction

    def fingerprint(self, split: str) -> str:
        # What the hub keeps under a name hardly ever changes, and asking it takes seconds.
        return f"hub {self.name} {self.subset} {split}"

    def read(self, split: str) -> Table:
        return _table(self._loaded[split], f"{self.name!r} ({split})")


@dataclass
class Saved(Source):
    """A folder that ``save_to_disk`` of the datasets package wrote: splits, or a single one."""

    path: Path
    without_test = (
        "; it is a folder of save_to_disk(), so name that of its 'train' alone to have rows to "
        "test on carved off"
    )

    def __post_init__(self) -> None:
        self.name = str(self.path)
        self.divided = not all((self.path / name).is_file() for name in _SAVED)

    @cached_property
    def _loaded(self) -> Any:
        import datasets

        try:
            return datasets.load_from_disk(self.path)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InputValueError(
                f"TextData: dataset={self.name!r} looks like a folder of save_to_disk() but cannot "
                f"be read; {one_line(error)}"
            ) from error

    def splits(self) -> list[str]:
        return list(self._loaded) if self.divided else ["train"]

    def fingerprint(self, split: str) -> str:
        folder = self.path / split if self.divided else self.path
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
        return repr([str(folder.resolve()), [(n, s.st_size, s.st_mtime_ns) for n, s in stats]])

    def read(self, split: str) -> Table:
        rows = self._loaded[split] if self.divided else self._loaded
        return _table(rows, f"{self.name!r} ({split})")


def _table(rows: Any, where: str) -> Table:
    """A ``datasets.Dataset``, with the names that it knows of its classes."""
    names = {key: getattr(value, "names", None) for key, value in rows.features.items()}
    known = {key: value for key, value in names.items() if value}
    return Table(rows.with_format("arrow")[:], where, known)


@dataclass
class Files(Source):
    """A file, a folder of files named after their splits, or a tree ``split/class/*.txt``."""

    path: Path
    encoding: str

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
        files = [(n, s.st_size, s.st_mtime_ns) for n, s in stats]
        return repr([str(self.path.resolve()), self.encoding, files])

    def read(self, split: str) -> Table:
        paths = [Path(entry) for entry in self._entries(split)]
        try:
            if paths[0].suffix == ".txt":
                texts = [self._utf8(path).decode() for path in paths]
                rows = pa.table({"text": texts, "label": [path.parent.name for path in paths]})
            else:
                parts = [plain(self._rows(path)) for path in paths]
                # A single part may have columns of one name, which cannot be put together.
                rows = (
                    pa.concat_tables(parts, promote_options="permissive")
                    if len(parts) > 1
                    else parts[0]
                )
        except pa.ArrowException as error:
            raise InputValueError(
                f"TextData: dataset={self.name!r} ({split}) cannot be read; {one_line(error)}"
            ) from error
        return Table(rows, f"{self.name!r} ({split})")

    def _rows(self, path: Path) -> Any:
        if path.suffix == ".parquet":
            # Not read_table(), which reads no file with two columns of one name.
            with pa.parquet.ParquetFile(path) as file:
                return file.read()
        content = self._utf8(path)
        # One block: types are inferred from all rows, and no row is longer than a block.
        block_size = min(len(content) + 1, 2**31 - 1)
        if path.suffix == ".jsonl":
            return pa.json.read_json(
                pa.BufferReader(content), pa.json.ReadOptions(block_size=block_size)
            )
        return pa.csv.read_csv(
            pa.BufferReader(content),
            pa.csv.ReadOptions(block_size=block_size),
            pa.csv.ParseOptions(
                delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
            ),
        )

    def _utf8(self, path: Path) -> bytes:
        """The content of a file of text in UTF-8, whatever it is in."""
        content = path.read_bytes()
        said = f"TextData: dataset={str(path)!r} is not in encoding={self.encoding!r}"
        try:
            text = content.decode(self.encoding)
        except UnicodeError as error:
            raise InputValueError(
                f"{said} ({one_line(error)}); save it in UTF-8 or give its own, such as "
                f"{_likely_encoding(content)}."
            ) from error
        # Bytes of UTF-16 may well be bytes of UTF-8: every other one is 0 then.
        if "\0" in text[:_HEAD]:
            raise InputValueError(
                f"{said} (its first characters are {text[:8]!r}); save it in UTF-8 or give its "
                f"own, such as {_likely_encoding(content)}."
            )
        return text.removeprefix("\ufeff").encode()


def _likely_encoding(content: bytes) -> str:
    """What to try, in words."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "'utf-16'"
    if content[1:_HEAD:2].count(0) > content[:_HEAD:2].count(0):
        return "'utf-16-le'"
    if 0 in content[:_HEAD]:
        return "'utf-16-be'"
    return "'latin-1' or 'cp1252'"


def looks_like_a_path(name: str) -> bool:
    """Tell a path from a name on the hub, which is ``name`` or ``owner/name``."""
    path = Path(name)
    written_so = path.is_absolute() or name.startswith((".", "~")) or path.suffix in _SUFFIXES
    return written_so or len(path.parts) > 2


def open_source(dataset: str, subset: str | None, encoding: str = "utf-8") -> Source:
    """Find what ``TextData`` means by its ``dataset``, ``subset`` and ``encoding``.

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
    if any(all((path / name).is_file() for name in marks) for marks in (_SAVED, _SAVED_SPLITS)):
        return Saved(path)
    if path.exists():
        return Files(path, encoding)
    if looks_like_a_path(dataset):
        raise MissingFileError(
            f"TextData: dataset={dataset!r} is no file or folder (looked in {Path.cwd()})."
        )
    return Hub(dataset, subset)

"""Text to tokens, once: what batches need of a tokenizer, tokenising, and the cache on disk."""

import hashlib
import json
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_adls.data import reviews
from lightning_adls.data.sources import looks_like_a_path
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.hub import asking_hub, one_line

_LINE_BREAK = re.compile(r"<br\s*/?>")
_CHUNK = 500  # texts per step of the progress bar, about 0.3 s of IMDB reviews
_VERSION = 2  # part of every key: raise it when the code below, or in sources, changes a result


class Encoder:
    """A tokenizer that neither truncates nor pads, and what is put around a text.

    Args:
        tokenizer: A tokenizer of Transformers that has a padding token.
        special_tokens: Whether the name of a special token within a text is that token. Else it is
            text like any other, so that nobody who writes ``[PAD]`` or ``</s>`` decides what a
            model takes for padding or an end.

    Attributes:
        prefix: Special tokens before a text.
        suffix: Special tokens after a text.
        pad: The padding token.
        vocab_size: Number of tokens, added ones included.
        digest: Changes whenever the tokenizer does.
    """

    def __init__(self, tokenizer: Any, special_tokens: bool = False) -> None:
        tokenizer.model_max_length = sys.maxsize  # else it warns of texts that are cut only later
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        unknown = tokenizer.unk_token_id
        self._blank = tokenizer.pad_token_id if unknown is None else unknown
        # An unknown word is text, too.
        self._control = {*tokenizer.all_special_ids} - {unknown}
        self._names = {name for name in tokenizer.all_special_tokens if len(name) > 1}
        self.pad: int = tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
        self.digest = digest([type(tokenizer).__name__, content, special_tokens])
        (probe,), full = self._ids(["a"]), tokenizer("a")["input_ids"]
        places = range(len(full) - len(probe) + 1)
        start = next(i for i in places if full[i : i + len(probe)] == probe)
        self.prefix = tuple(full[:start])
        self.suffix = tuple(full[start + len(probe) :])

    def to_save(self, max_length: int | None) -> Any:
        """The tokenizer of Transformers, to be saved for a network of so many positions."""
        tokenizer = deepcopy(self._tokenizer)
        if max_length is not None:
            tokenizer.model_max_length = max_length
        return tokenizer

    def save(self, folder: Path, max_length: int) -> None:
        """Write the tokenizer's files, for a network of so many positions, into a new folder.

        :func:`load_encoder` makes it again. An older folder stays until the new one is whole.

        Raises:
            ValueError: If it cannot be written.
        """
        part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.to_save(max_length).save_pretrained(part)
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
        except OSError as error:
            raise InputValueError(
                f"tokenizer: {str(folder)!r} cannot be written: {error.strerror}."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found = self._encoded(texts)
        if self._special_tokens:
            return found
        for row, ids in enumerate(found):
            # The tokens of special names are also words of some vocabularies, where no option
            # of the tokenizer keeps them from being found.
            if not self._control.isdisjoint(ids):
                (found[row],) = self._encoded([self._broken_up(texts[row])])
        return found

    def _broken_up(self, text: str) -> str:
        """The text with a blank within each name of a special token."""
        for name in self._names:
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return text

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            padding=False,  # a tokenizer.json may ask for this and for truncation
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=not self._special_tokens,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def encode(self, texts: Sequence[str], title: str) -> dict[str, Tensor]:
        """Tokenise without special tokens, under a progress bar where it takes a while.

        A text that no token is left of, such as an empty one, is one unknown token where the
        tokenizer puts nothing around it: no network can be run on a row of width 0.

        Returns:
            ``ids``, int32, the tokens of all texts one after the other, and ``starts``, int64,
            where each text begins, with the end of the last: ``(texts + 1,)``.
        """
        pieces, lengths = [np.empty(0, np.int32)], [0]
        nothing = [] if self.prefix or self.suffix else [self._blank]
        for start in track(
            range(0, len(texts), _CHUNK),
            f"Tokenising {title}",
            console=Console(stderr=True),
            transient=True,
            disable=len(texts) < 4 * _CHUNK,
        ):
            for ids in self._ids(list(texts[start : start + _CHUNK])):
                pieces.append(np.asarray(ids or nothing, np.int32))
                lengths.append(len(pieces[-1]))
        starts = torch.from_numpy(np.cumsum(lengths))
        return {"ids": torch.from_numpy(np.concatenate(pieces)), "starts": starts}


def without_line_breaks(text: str) -> str:
    """A text as networks read it: a blank for each line break of HTML.

    Example:
        >>> without_line_breaks("Dull.<br /><br>Very dull.")
        'Dull.  Very dull.'
    """
    return _LINE_BREAK.sub(" ", text)


def load_encoder(tokenizer: str | None, special_tokens: bool = False) -> Encoder:
    """Load a tokenizer, or the one of the built-in reviews; the second time is free.

    Args:
        tokenizer: Name on the hub, or folder, or None for that of the reviews.
        special_tokens: Whether the name of a special token within a text is that token.

    Raises:
        FileNotFoundError: If it is neither here nor on the hub.
        ValueError: If it has no padding token or no vocabulary.
    """
    folder = Path(tokenizer).expanduser() if tokenizer else None
    if tokenizer and folder and not folder.exists() and looks_like_a_path(tokenizer):
        raise MissingFileError(
            f"TextData: tokenizer={tokenizer!r} is no folder (looked in {Path.cwd()})."
        )
    if folder is None or not folder.is_dir():
        return _load_encoder(tokenizer, (), special_tokens)
    files = sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())
    return _load_encoder(str(folder), tuple(files), special_tokens)


@lru_cache(maxsize=4)
def _load_encoder(
    tokenizer: str | None, _files: tuple[tuple[str, int], ...], special_tokens: bool
) -> Encoder:
    """Load a tokenizer; ``_files`` is there to load it again once they have changed."""
    # Only here: importing it takes over a second, and --help should not wait for that.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded: Any
    if tokenizer is None:
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
        loaded = PreTrainedTokenizerFast(tokenizer_object=reviews.tokenizer(), **special)
    else:
        loaded = _from_transformers(AutoTokenizer, tokenizer)
    # Transformers 5 makes of it a tokenizer that knows no word.
    if loaded is None or len(loaded) <= len(set(loaded.all_special_ids)):
        raise InputValueError(
            f"TextData: tokenizer={tokenizer!r} has no vocabulary; its folder must hold "
            "tokenizer.json, or vocab.txt with tokenizer_config.json, or the like."
        )
    if loaded.pad_token_id is None:
        raise InputValueError(
            f"TextData: tokenizer={tokenizer!r} has no padding token; use an encoder's, such as "
            "'google-bert/bert-base-uncased'."
        )
    return Encoder(loaded, special_tokens)


def _from_transformers(auto_tokenizer: Any, tokenizer: str) -> Any:
    with nullcontext("") if Path(tokenizer).is_dir() else asking_hub() as unreachable:
        try:
            return auto_tokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise MissingFileError(
                f"TextData: tokenizer={tokenizer!r} is no folder with a tokenizer, and the hub did "
                f"not give it ({unreachable or one_line(error)}); check the spelling and the "
                "network, or give the path of a folder."
            ) from error
        except TypeError:  # what Transformers 4 makes of a folder without the files
            return None


def digest(content: Any) -> str:
    """Hash anything that JSON can hold, the same on every machine and in every run."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Cached:
    """Tensors, and words about them, that were computed once."""

    tensors: dict[str, Tensor]
    words: list[str]


def _save(made: Cached, path: Path) -> None:
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        save_file(made.tensors, unfinished, {"words": json.dumps(made.words)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cached(folder: Path, key: dict[str, Any], make: Callable[[], Cached]) -> Cached:
    """Read what ``make`` returned when it was called with this key; call it the first time.

    The file appears complete or not at all. Of several processes that want it at once, one makes
    it and the others wait.

    Args:
        folder: Where the files lie; made if missing.
        key: Everything that the result depends on, apart from the code.
        make: Called without arguments if no file has this key.
    """
    path = folder / f"{digest([_VERSION, key])}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock")
        try:
            with FileLock(lock):
                if not path.exists():
                    _save(make(), path)
        finally:
            # Who waits for it still gets it, and looks for the file.
            lock.unlink(missing_ok=True)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Cached(tensors, json.loads(file.metadata()["words"]))

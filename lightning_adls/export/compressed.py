"""A folder of Transformers whose weights are compressed by compressed-tensors."""

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data.tokens import load_encoder
from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.export.compressed_network import CONFIG, WEIGHTS, CompressedNetwork
from lightning_adls.hub import one_line
from lightning_adls.models.length import positions

_FILES = "lightning_adls.files"  # in the metadata of the weights: all that the folder holds


def compressed_tensors(
    model: nn.Module,
    folder: str | Path,
    *,
    labels: Sequence[str] = (),
    tokenizer: Any = None,
    approximate_inputs: bool = False,
) -> Path:
    """Write a folder that Transformers and other readers of compressed-tensors can load.

    ``config.json``, whose ``quantization_config`` has a group for each scheme and names its layers,
    ``model.safetensors`` and the files of the tokenizer. Weights are packed at the bits of their
    format, with scales beside them. What the library decompresses is what the layers multiply
    with, bit for bit: that is compared before the folder has its name. A mask is stored as zeros,
    and a bias as the values that it is rounded to.

    Args:
        model: A network of Transformers or a :class:`TextClassifier` of one, on any device; not
            changed.
        folder: A new one, or one that was written by this function, which stays until the new one
            is whole.
        labels: Names of the classes, in order; by default those of the network's configuration.
        tokenizer: Name on the hub or folder, or an object that has ``save_pretrained``.
        approximate_inputs: Whether inputs may have formats that the library rounds in another way:
            unsigned integers and MXFP.

    Returns:
        The folder.

    Raises:
        ImportError: If compressed-tensors is not installed.
        FileNotFoundError: If the tokenizer is not there.
        ValueError: If the network is not one of Transformers as its configuration describes it, a
            layer has a format that the library has not, ``labels`` are not as many as the classes,
            the folder holds something else, a weight holds a NaN or is another one after
            decompressing, or the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Quantize, bert
        >>> model = bert(vocab_size=50, hidden_size=32, intermediate_size=64)
        >>> Quantize({"*": {"weight": "Integer(width=3, frac_width=4)"}})(model)
        >>> with TemporaryDirectory() as parent:
        ...     folder = compressed_tensors(model, f"{parent}/bert")
        ...     sorted(path.name for path in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    if find_spec("compressed_tensors") is None:
        raise MissingPackageError(
            "export: compressed-tensors is not installed; run pip install 'lightning_adls[export]'."
        )
    model = getattr(model, "_orig_mod", model)  # what was compiled
    network = model.model if isinstance(model, TextClassifier) else model
    network = getattr(network, "_orig_mod", network)
    compressed = CompressedNetwork(network, approximate_inputs)
    config = _config(network, compressed, labels)
    folder = Path(folder)
    _check_folder(folder)
    if isinstance(tokenizer, str | Path):
        tokenizer = load_encoder(str(tokenizer)).to_save(positions(network))
    place = folder.resolve()
    part = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(part))
        config.to_json_file(part / CONFIG)
        names = sorted({path.name for path in part.iterdir()} | {WEIGHTS})
        metadata = {"format": "pt", _FILES: json.dumps(names)}
        save_file(compressed.tensors(), part / WEIGHTS, metadata)
        compressed.check(part)
        _put(part, place)
    except (OSError, SafetensorError) as error:
        what = getattr(error, "strerror", None) or one_line(error)
        raise InputValueError(
            f"export: folder={str(folder)!r} cannot be written: {what}."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _config(network: Any, compressed: CompressedNetwork, labels: Sequence[str]) -> Any:
    """The configuration of the network with what is to be said of its weights and classes."""
    config = deepcopy(network.config)
    if labels and len(labels) != config.num_labels:
        raise InputValueError(
            f"export: labels={list(labels)} are {len(labels)}, and the network has "
            f"{config.num_labels} classes."
        )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    config.architectures = [type(network).__name__]
    config.dtype = compressed.dtype
    config.quantization_config = compressed.quantization_config()
    return config


def _check_folder(folder: Path) -> None:
    """Refuse to replace what was not written here."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    strange = folder.name
    if folder.is_dir():
        found = {path.name for path in folder.iterdir()}
        strange = min(found - _files_of(folder), default="")
    if strange:
        raise InputValueError(
            f"export: folder={str(folder)!r} is there and was not written by "
            f"export.compressed_tensors ({strange!r}); name a new one."
        )


def _files_of(folder: Path) -> set[str]:
    """The names that a folder had when it was written here; none if it was not."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return set(json.loads(file.metadata()[_FILES]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return set()


def _put(part: Path, folder: Path) -> None:
    """Give a whole folder its name, which an older one may have."""
    for path in (*part.iterdir(), part):
        _to_disk(path)
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_suffix(".old")
    folder.rename(old)  # no system call that Python has replaces a folder that is not empty
    try:
        part.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

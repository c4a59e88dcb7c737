"""Networks from checkpoints of Transformers: a name on the hub or a folder."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError, MissingFileError, MissingPackageError
from lightning_adls.hub import asking_hub, one_line
from lightning_adls.layers.record import ADDED


def read_config(who: str, checkpoint: str, vocab_size: int | None = None) -> Any:
    """The configuration of a checkpoint, which has a word vector for each of ``vocab_size`` tokens.

    Raises:
        ValueError: If the tokenizer has more tokens than the checkpoint.
        FileNotFoundError: If ``checkpoint`` is neither a folder nor to be had from the hub.
    """
    # Transformers takes seconds to import and is not needed to parse a command line.
    from transformers import AutoConfig

    if Path(checkpoint).exists() and not (Path(checkpoint) / "config.json").is_file():
        raise MissingFileError(
            f"{who}: checkpoint={checkpoint!r} holds no config.json; name a folder that "
            "save_pretrained() wrote."
        )
    with _refusing_unreadable(who, checkpoint):
        try:
            config = AutoConfig.from_pretrained(checkpoint)
        except ValueError as error:
            raise InputValueError(
                f"{who}: checkpoint={checkpoint!r} is no network that Transformers knows."
            ) from error
    if vocab_size is not None and vocab_size > config.vocab_size:
        raise InputValueError(
            f"{who}: vocab_size={vocab_size} of the tokenizer is above the "
            f"{config.vocab_size} of checkpoint={checkpoint!r}; use the checkpoint's tokenizer."
        )
    return config


def load(who: str, checkpoint: str, **options: Any) -> tuple[Any, Collection[str]]:
    """The sequence classifier of a checkpoint, in eval mode; its head is new if it has none.

    Args:
        who: Who says what is wrong.
        checkpoint: One that :func:`read_config` can read.
        options: What replaces values of its configuration, and how it is loaded.

    Returns:
        The network, and the names of what the checkpoint lacks.

    Raises:
        ValueError: If its head is one for another number of classes, or its layers were quantised,
            pruned, packed or adapted, which Transformers would leave out.
        FileNotFoundError: If its weights are not there.
        ImportError: If its weights are compressed and what decompresses them is not installed.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    with _refusing_unreadable(who, checkpoint), quiet():
        try:
            network, loading = AutoModelForSequenceClassification.from_pretrained(
                checkpoint, output_loading_info=True, **options
            )
        except SafetensorError as error:
            raise InputValueError(
                f"{who}: checkpoint={checkpoint!r} is damaged: {error}"
            ) from error
        except ImportError as error:
            raise MissingPackageError(
                f"{who}: checkpoint={checkpoint!r} needs another package: {one_line(error)}"
            ) from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise InputValueError(
                f"{who}: checkpoint={checkpoint!r} was trained for another number of classes than "
                f"num_classes={options.get('num_labels')}; take the model that it was tuned from."
            ) from error
    if any(key.rpartition(".")[2] in ADDED for key in loading["unexpected_keys"]):
        raise InputValueError(
            f"{who}: checkpoint={checkpoint!r} is of a quantised, pruned, packed or adapted model; "
            f"make it by lightning_adls.load(transformers.{type(network).__name__}, folder)."
        )
    if hasattr(getattr(network, "hf_quantizer", None), "compressor"):
        _decompress(network)
    return network, loading["missing_keys"]


def _decompress(network: Any) -> None:
    """Have weights that compressed-tensors keeps packed in the data type of the network.

    Left alone they are unpacked by the first forward, those of MX formats to bfloat16, which layers
    of float32 cannot multiply with.
    """
    dtype = network.dtype
    network.hf_quantizer.compressor.decompress_model(network)
    network.to(dtype)


@contextmanager
def _refusing_unreadable(who: str, checkpoint: str) -> Iterator[None]:
    if Path(checkpoint).exists():
        try:
            yield
        except OSError as error:
            raise MissingFileError(
                f"{who}: checkpoint={checkpoint!r} lacks its weights or cannot be read: "
                f"{one_line(error)}"
            ) from error
        return
    with asking_hub() as unreachable:
        try:
            yield
        except OSError as error:
            raise MissingFileError(
                f"{who}: checkpoint={checkpoint!r} is no folder and could not be had from the hub "
                f"({unreachable or one_line(error)}); check the name, the network, or give the "
                "path of a folder."
            ) from error


def reuse_weights(model: nn.Module, checkpoint: str) -> int:
    """Start a BERT of other dimensions from what a pre-trained one shares with it.

    A parameter is taken where name and shape agree: the first layers of a deeper BERT of the same
    widths, for example, and nothing of one of another hidden size. The number of heads does not
    show in a shape; it only decides how the same weights are divided. The classifier head is left
    as it is. A checkpoint is read at the first call and kept for the next.

    Args:
        model: From :func:`bert`; changed in place. Layers may have been dropped or quantised.
        checkpoint: A name on the hub or a folder.

    Returns:
        How many numbers were taken: the sum of the sizes of the parameters that agree.

    Raises:
        ValueError: If ``checkpoint`` is no BERT.
        FileNotFoundError: If ``checkpoint`` is neither a folder nor to be had from the hub.
    """
    pretrained = _pretrained_weights(checkpoint)
    taken = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weight = pretrained.get(name)
            if weight is not None and weight.shape == parameter.shape:
                parameter.copy_(weight)
                taken += parameter.numel()
    return taken


@lru_cache(maxsize=4)  # a search asks for the same checkpoints at every trial
def _pretrained_weights(checkpoint: str) -> dict[str, Tensor]:
    require_bert("reuse_weights", checkpoint, read_config("reuse_weights", checkpoint))
    # Loading draws what the checkpoint lacks. Where the first call is must change no later draw.
    with torch.random.fork_rng():
        model, missing = load("reuse_weights", checkpoint)
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name not in missing and not name.startswith("classifier.")
    }


def require_bert(who: str, checkpoint: str, config: Any) -> None:
    """Refuse a checkpoint of another kind of network.

    Raises:
        ValueError: If it is no BERT.
    """
    if config.model_type != "bert":
        raise InputValueError(
            f"{who}: checkpoint={checkpoint!r} is a {config.model_type!r} model; give a BERT."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Transformers from reporting that the head of a pre-trained model is new."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()

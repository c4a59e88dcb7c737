"""BERT classifiers: from a checkpoint on the hub or in a folder, or from dimensions."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputError, MissingFileError

_DEFAULTS = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
}


def bert(
    checkpoint: str | None = None,
    *,
    num_classes: int = 2,
    vocab_size: int | None = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
    max_position_embeddings: int | None = None,
    dropout: float = 0.1,
    attention: str = "sdpa",
) -> nn.Module:
    """A BERT that classifies sequences, in train mode.

    Its forward maps ``input_ids`` and ``attention_mask``, both ``(batch, tokens)`` of int64, to an
    object whose ``logits`` are ``(batch, num_classes)``.

    Args:
        checkpoint: A name on the hub (``prajjwal1/bert-tiny``) or a folder. None builds a model
            with random weights from the dimensions below; give either one or the others.
        num_classes: Outputs of the classifier head, 2 or more.
        vocab_size: Tokens of the tokenizer: the rows of a new word embedding. A checkpoint that
            has fewer is refused.
        hidden_size: Width of the residual stream, 128 without a checkpoint.
        num_hidden_layers: Encoder layers, 2 without a checkpoint.
        num_attention_heads: A divisor of ``hidden_size``, 2 without a checkpoint.
        intermediate_size: Width of the feed-forward layers, 512 without a checkpoint.
        max_position_embeddings: Longest input in tokens, 512 without a checkpoint.
        dropout: Probability in the hidden layers and in the attention, 0 to below 1.
        attention: ``sdpa``, torch's fused attention, or ``eager``.

    Raises:
        ValueError: If an argument is out of range, dimensions come with a checkpoint, or the
            vocabulary size is missing without one.
        FileNotFoundError: If ``checkpoint`` is neither a folder nor to be had from the hub.
    """
    dimensions = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_position_embeddings,
    }
    given = {name: value for name, value in dimensions.items() if value is not None}
    if num_classes < 2:
        raise InputError(f"bert: num_classes={num_classes} is below 2.")
    if not 0 <= dropout < 1:
        raise InputError(f"bert: dropout={dropout} is not in 0 <= dropout < 1.")
    if attention not in ("sdpa", "eager"):
        raise InputError(f"bert: attention={attention!r} is neither 'sdpa' nor 'eager'.")
    options: dict[str, Any] = {
        "num_labels": num_classes,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "attn_implementation": attention,
    }
    if checkpoint is not None:
        if given:
            raise InputError(
                f"bert: checkpoint={checkpoint!r} fixes the dimensions; "
                f"do not give {', '.join(given)}."
            )
        return _load(checkpoint, vocab_size, options)
    sizes = {**_DEFAULTS, **given}
    _check_sizes(vocab_size, sizes)
    # Transformers takes seconds to import and is not needed to parse a command line.
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**{**options, **sizes, "vocab_size": vocab_size})
    built: nn.Module = BertForSequenceClassification(config)
    return built.train()


def check_length(model: nn.Module, max_length: int) -> None:
    """Refuse inputs longer than ``model`` has positions for.

    Raises:
        ValueError: If ``max_length`` tokens are more than the position embedding has rows.
    """
    positions: int = model.config.max_position_embeddings  # type: ignore[union-attr,assignment]
    if max_length > positions:
        raise InputError(
            f"check_length: max_length={max_length} is above the {positions} positions of the "
            "model; lower it."
        )


def _check_sizes(vocab_size: int | None, sizes: dict[str, int]) -> None:
    if vocab_size is None:
        raise InputError("bert: vocab_size=None; without a checkpoint give the tokenizer's size.")
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"bert: {name}={value} is below 1.")
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads:
        raise InputError(
            f"bert: hidden_size={hidden} is no multiple of num_attention_heads={heads}."
        )


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
    # Loading draws what the checkpoint lacks. Where the first call is must change no later draw.
    with torch.random.fork_rng():
        model, loading = _from_pretrained("reuse_weights", checkpoint, output_loading_info=True)
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name not in loading["missing_keys"] and not name.startswith("classifier.")
    }


def _load(checkpoint: str, vocab_size: int | None, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = _from_pretrained("bert", checkpoint, vocab_size, **options)
    # from_pretrained returns eval mode and Lightning keeps it: no dropout for the whole run.
    return model.train()


def _from_pretrained(
    who: str, checkpoint: str, vocab_size: int | None = None, **options: Any
) -> Any:
    from transformers import AutoConfig, BertForSequenceClassification

    if Path(checkpoint).exists() and not (Path(checkpoint) / "config.json").is_file():
        raise MissingFileError(
            f"{who}: checkpoint={checkpoint!r} holds no config.json; name a folder that "
            "save_pretrained() wrote."
        )
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "bert":
            raise InputError(
                f"{who}: checkpoint={checkpoint!r} is a {config.model_type!r} model; give a BERT."
            )
        if vocab_size is not None and vocab_size > config.vocab_size:
            raise InputError(
                f"{who}: vocab_size={vocab_size} of the tokenizer is above the "
                f"{config.vocab_size} of checkpoint={checkpoint!r}; use the checkpoint's tokenizer."
            )
        with _quiet():
            return BertForSequenceClassification.from_pretrained(checkpoint, **options)
    except OSError as error:
        raise MissingFileError(
            f"{who}: checkpoint={checkpoint!r} is no folder and could not be had from the hub; "
            "check the name, the network, or give the path of a folder."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
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

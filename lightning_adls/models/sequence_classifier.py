"""Any sequence classifier of Transformers: from a checkpoint, or of a model type and dimensions."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.dropout import use_bit_dropout
from lightning_adls.models.loading import load, quiet, read_config

_WHO = "sequence_classifier"
# Given by parameters of their own.
_NOT_IN_CONFIG = {"num_labels", "id2label", "label2id", "vocab_size", "pad_token_id", "model_type"}


def sequence_classifier(
    checkpoint: str | None = None,
    *,
    model_type: str | None = None,
    config: dict[str, Any] | None = None,
    num_classes: int = 2,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    attention: str | None = None,
) -> nn.Module:
    """A network of Transformers that classifies sequences, in train mode.

    Its forward maps ``input_ids`` and ``attention_mask``, both ``(batch, tokens)`` of int64, to an
    object whose ``logits`` are ``(batch, num_classes)``.

    Args:
        checkpoint: A name on the hub (``distilbert/distilbert-base-uncased``) or a folder. None
            builds a model with random weights; give either one or ``model_type``.
        model_type: As Transformers calls it: ``distilbert``, ``roberta``, ``electra``, ``gpt2``.
        config: Entries of the model type's configuration, dimensions above all, by the names of
            Transformers. What is left out is as in the original network, mostly a large one.
        num_classes: Outputs of the classifier head, 2 or more.
        vocab_size: Tokens of the tokenizer: the rows of a new word embedding. A checkpoint that
            has fewer is refused.
        pad_token_id: The tokenizer's. RoBERTa counts positions from behind it, and GPT-2 looks for
            the last token that is none, so a checkpoint that has another is refused.
        dropout: Probability, 0 to below 1, of every dropout that the configuration names; None
            leaves them as they are.
        attention_dropout: Probability, 0 to below 1, of those among them that drop weights of the
            attention; None leaves them to ``dropout``.
        attention: ``sdpa``, torch's fused attention, or ``eager``; None takes the fused one where
            the network has it.

    Raises:
        ValueError: If an argument is out of range, unknown to the model type or missing, if
            ``model_type`` or ``config`` come with a checkpoint, or if the configuration names no
            dropout of the attention and ``attention_dropout`` is given.
        FileNotFoundError: If ``checkpoint`` is neither a folder nor to be had from the hub.

    Example:
        >>> sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
        >>> network = sequence_classifier(model_type="distilbert", config=sizes, vocab_size=50)
        >>> network.classifier.out_features
        2
    """
    if num_classes < 2:
        raise InputValueError(f"{_WHO}: num_classes={num_classes} is below 2.")
    for name, value in {"dropout": dropout, "attention_dropout": attention_dropout}.items():
        if value is not None and not 0 <= value < 1:
            raise InputValueError(f"{_WHO}: {name}={value} is not in 0 <= {name} < 1.")
    if attention not in (None, "sdpa", "eager"):
        raise InputValueError(f"{_WHO}: attention={attention!r} is neither 'sdpa' nor 'eager'.")
    options: dict[str, Any] = {"num_labels": num_classes}
    if pad_token_id is not None:
        options["pad_token_id"] = pad_token_id
    how = {} if attention is None else {"attn_implementation": attention}
    if checkpoint is None:
        shares = (dropout, attention_dropout)
        built = _from_dimensions(model_type, config or {}, vocab_size, shares, options, how)
        use_bit_dropout(built)
        return built.train()
    if model_type is not None or config:
        raise InputValueError(
            f"{_WHO}: checkpoint={checkpoint!r} fixes the network; give neither model_type nor "
            "config."
        )
    known = read_config(_WHO, checkpoint, vocab_size)
    _check_type(known.model_type)
    if None not in (pad_token_id, known.pad_token_id) and pad_token_id != known.pad_token_id:
        raise InputValueError(
            f"{_WHO}: pad_token_id={pad_token_id} of the tokenizer is not the {known.pad_token_id} "
            f"of checkpoint={checkpoint!r}; use the checkpoint's tokenizer."
        )
    options |= _dropouts(known, dropout, attention_dropout)
    with _refusing(f"attention={attention!r}"):
        network: nn.Module = load(_WHO, checkpoint, **options, **how)[0]
    use_bit_dropout(network)
    # from_pretrained returns eval mode and Lightning keeps it: no dropout for the whole run.
    return network.train()


def _from_dimensions(
    model_type: str | None,
    entries: Mapping[str, Any],
    vocab_size: int | None,
    dropouts: tuple[float | None, float | None],
    options: Mapping[str, Any],
    how: Mapping[str, str],
) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if model_type is None:
        raise InputValueError(f"{_WHO}: model_type=None; without a checkpoint give one.")
    _check_type(model_type)
    if vocab_size is None:
        raise InputValueError(
            f"{_WHO}: vocab_size=None; without a checkpoint give the tokenizer's size."
        )
    pad = options.get("pad_token_id")
    if pad is not None and not 0 <= pad < vocab_size:
        raise InputValueError(f"{_WHO}: pad_token_id={pad} is not in 0..{vocab_size - 1}.")
    with quiet():  # special tokens that only generate text may lie outside of a small vocabulary
        original = AutoConfig.for_model(model_type)
        _check_entries(model_type, entries, {*original.to_dict(), *original.attribute_map})
        entries = {**_dropouts(original, *dropouts), **entries}
        with _refusing(f"config={dict(entries)}"):
            config = AutoConfig.for_model(model_type, **entries, **options, vocab_size=vocab_size)
            _check_sizes(config)
            built: nn.Module = AutoModelForSequenceClassification.from_config(config, **how)
    return built


def _check_type(model_type: str) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN,
    )

    if model_type not in KNOWN:
        raise InputValueError(
            f"{_WHO}: model_type={model_type!r} is no sequence classifier of Transformers"
            f"{_similar(model_type, KNOWN)}."
        )


def _check_entries(model_type: str, entries: Collection[str], known: Collection[str]) -> None:
    """Refuse what Transformers would keep without using it."""
    for name in entries:
        if name in _NOT_IN_CONFIG:
            raise InputValueError(f"{_WHO}: config has {name}, which is not to be given there.")
        if name not in known:
            raise InputValueError(
                f"{_WHO}: config has {name!r}, which {model_type!r} does not know"
                f"{_similar(name, known)}."
            )


def _similar(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known)
    return f"; similar: {', '.join(close)}" if close else ""


def _check_sizes(config: Any) -> None:
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        if getattr(config, name, 1) < 1:
            raise InputValueError(f"{_WHO}: {name}={getattr(config, name)} is below 1.")
    hidden, heads = config.hidden_size, getattr(config, "num_attention_heads", 1)
    if getattr(config, "head_dim", None) is None and hidden % heads:
        raise InputValueError(
            f"{_WHO}: hidden_size={hidden} is no multiple of num_attention_heads={heads}."
        )


def _dropouts(config: Any, dropout: float | None, attention: float | None) -> dict[str, float]:
    """The dropouts of a configuration that change, those of the attention apart."""
    named = [
        name
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("_pdrop"))
        and isinstance(value, float | int)
        and not isinstance(value, bool)
    ]
    of_attention = [name for name in named if "attention" in name or "attn" in name]
    if attention is not None and not of_attention:
        raise InputValueError(
            f"{_WHO}: attention_dropout={attention}, but {config.model_type!r} names no dropout of "
            f"the attention in its configuration, only {', '.join(named) or 'none at all'}."
        )
    chosen = dict.fromkeys(named, dropout)
    if attention is not None:
        chosen |= dict.fromkeys(of_attention, attention)
    return {name: value for name, value in chosen.items() if value is not None}


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """What Transformers refuses when it builds a network is the user's to mend."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except InputValueError:
        raise
    except (StrictDataclassError, ValueError) as error:
        raise InputValueError(f"{_WHO}: {what} is refused by Transformers: {error}") from error

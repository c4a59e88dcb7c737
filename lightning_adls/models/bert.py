"""BERT classifiers: from a checkpoint on the hub or in a folder, or from dimensions."""

from typing import Any

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.dropout import use_bit_dropout
from lightning_adls.models.loading import load, read_config, require_bert

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
    attention_dropout: float = 0.0,
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
        dropout: Probability in the hidden layers and before the head, 0 to below 1.
        attention_dropout: Probability with which a weight of the attention is dropped, 0 to below
            1. Above 0 it keeps torch's attention off its fused path on the CPU.
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
        raise InputValueError(f"bert: num_classes={num_classes} is below 2.")
    for name, value in {"dropout": dropout, "attention_dropout": attention_dropout}.items():
        if not 0 <= value < 1:
            raise InputValueError(f"bert: {name}={value} is not in 0 <= {name} < 1.")
    if attention not in ("sdpa", "eager"):
        raise InputValueError(f"bert: attention={attention!r} is neither 'sdpa' nor 'eager'.")
    options: dict[str, Any] = {
        "num_labels": num_classes,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": attention_dropout,
        "attn_implementation": attention,
    }
    if checkpoint is not None:
        if given:
            raise InputValueError(
                f"bert: checkpoint={checkpoint!r} fixes the dimensions; "
                f"do not give {', '.join(given)}."
            )
        require_bert("bert", checkpoint, read_config("bert", checkpoint, vocab_size))
        network: nn.Module = load("bert", checkpoint, **options)[0]
        use_bit_dropout(network)
        # from_pretrained returns eval mode and Lightning keeps it: no dropout for the whole run.
        return network.train()
    sizes = {**_DEFAULTS, **given}
    _check_sizes(vocab_size, sizes)
    # Transformers takes seconds to import and is not needed to parse a command line.
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**{**options, **sizes, "vocab_size": vocab_size})
    built: nn.Module = BertForSequenceClassification(config)
    use_bit_dropout(built)
    return built.train()


def _check_sizes(vocab_size: int | None, sizes: dict[str, int]) -> None:
    if vocab_size is None:
        raise InputValueError(
            "bert: vocab_size=None; without a checkpoint give the tokenizer's size."
        )
    for name, value in sizes.items():
        if value < 1:
            raise InputValueError(f"bert: {name}={value} is below 1.")
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads:
        raise InputValueError(
            f"bert: hidden_size={hidden} is no multiple of num_attention_heads={heads}."
        )

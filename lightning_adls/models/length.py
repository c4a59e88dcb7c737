"""How long an input may be."""

from torch import nn

from lightning_adls.errors import InputValueError

# Tables of absolute positions in Transformers: of most encoders, GPT-2 and BART.
_TABLES = ("position_embeddings", "wpe", "embed_positions")


def check_length(model: nn.Module, max_length: int) -> None:
    """Refuse inputs longer than ``model`` has positions for.

    A network without a table of absolute positions (with relative or rotary ones, or none) takes
    inputs of any length.

    Raises:
        ValueError: If ``max_length`` tokens are more than the usable rows of the table.
    """
    longest = positions(model)
    if longest is not None and max_length > longest:
        raise InputValueError(
            f"check_length: max_length={max_length} is above the {longest} positions of the "
            "model; lower it."
        )


def positions(model: nn.Module) -> int | None:
    """Rows of the smallest table of positions that a token can get; None if there is none."""
    usable = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _TABLES and isinstance(module, nn.Embedding):
            rows = module.num_embeddings
            if module.padding_idx is not None:
                # RoBERTa counts from behind the number of the padding token.
                rows -= module.padding_idx + 1
            # BART and OPT keep two rows that no token gets.
            usable.append(rows - int(getattr(module, "offset", 0)))
    return min(usable, default=None)

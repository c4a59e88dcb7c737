"""Networks that classify sequences, from checkpoints or from dimensions."""

from lightning_adls.models.bert import bert, check_length, reuse_weights

__all__ = ["bert", "check_length", "reuse_weights"]

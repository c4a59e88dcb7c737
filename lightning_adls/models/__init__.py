"""Networks that classify sequences, from checkpoints or from dimensions."""

from lightning_adls.models.bert import bert
from lightning_adls.models.factory import FROM_DATA, NetworkFactory, accepted, check_outputs
from lightning_adls.models.length import check_length
from lightning_adls.models.loading import reuse_weights
from lightning_adls.models.sequence_classifier import sequence_classifier

__all__ = [
    "FROM_DATA",
    "NetworkFactory",
    "accepted",
    "bert",
    "check_length",
    "check_outputs",
    "reuse_weights",
    "sequence_classifier",
]

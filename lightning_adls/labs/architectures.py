"""Models whose architecture is searched: how each is made, compressed and checked beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import lightning as L
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.models import check_length, reuse_weights
from lightning_adls.search import Architecture, ArchitectureSpace
from lightning_adls.transforms import Transform
from lightning_adls.transforms.cost import count_parameters


def smallest(space: ArchitectureSpace, hidden_size: int | None = None) -> Architecture:
    """The smallest architecture of a space, of those that have a hidden size."""
    return Architecture(
        num_hidden_layers=min(space.num_hidden_layers),
        num_attention_heads=min(space.num_attention_heads),
        hidden_size=hidden_size or min(space.hidden_size),
        intermediate_size=min(space.intermediate_size),
    )


@dataclass(frozen=True)
class Models:
    """Makes classifiers of one space.

    Args:
        texts: The data set, set up.
        network: Makes a network from its dimensions and what the data decide.
        classifier: Makes the LightningModule of a network.
        compression: Changes that :meth:`compress` makes, in order.
        reuse: Checkpoints; a model starts from those of their weights that have the name and shape
            of its own.
    """

    texts: TextData
    network: Callable[..., nn.Module]
    classifier: Callable[..., TextClassifier]
    compression: Sequence[Transform]
    reuse: Sequence[str] = ()

    def build(self, architecture: Architecture) -> TextClassifier:
        """A classifier of this architecture, on pre-trained weights where they fit."""
        texts = self.texts
        network = architecture.build(
            partial(
                self.network,
                num_classes=texts.num_classes,
                vocab_size=texts.vocab_size,
                pad_token_id=texts.pad_token_id,
            )
        )
        for checkpoint in self.reuse:
            reuse_weights(network, checkpoint)
        return self.classifier(network, num_classes=texts.num_classes)

    def compress(self, module: L.LightningModule) -> None:
        """Compress a trained classifier, in place."""
        for transform in self.compression:
            transform(module.get_submodule("model"))

    def check(self, space: ArchitectureSpace) -> dict[int, float]:
        """Refuse what no model of the space can do: read the texts, be compressed, reuse weights.

        Returns:
            By hidden size, the share of the smallest model that is reused.

        Raises:
            InputValueError: If so.
        """
        shares = {}
        for hidden_size in space.hidden_size:
            module = self.build(smallest(space, hidden_size))
            check_length(module.model, self.texts.max_length)
            taken = (reuse_weights(module.model, name) for name in self.reuse)
            shares[hidden_size] = max(taken, default=0) / count_parameters(module.model)
            self.compress(module)
        if self.reuse and not any(shares.values()):
            raise InputValueError(
                f"lab2: reuse={list(self.reuse)} has no weights for any of "
                f"hidden_size={list(space.hidden_size)}; add the checkpoint's hidden_size."
            )
        return shares

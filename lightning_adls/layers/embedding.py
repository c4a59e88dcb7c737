"""The quantised embedding."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer
from lightning_adls.layers.scales_by_format import Learned


class QuantizedEmbedding(QuantizedLayer, nn.Embedding):
    """``nn.Embedding`` that rounds its rows; see :class:`QuantizedLayer`.

    Its input are indices and it has no bias, so only ``formats.weight`` concerns it.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Size of a row.
        padding_idx: Row that gets no gradient.
        scale_grad_by_freq: As in ``nn.Embedding``.
        formats: What the rows are rounded to.
        device: Where the table lies.
        dtype: Of the table.

    Example:
        >>> from lightning_adls.formats import MXInt
        >>> layer = QuantizedEmbedding(100, 32, formats=LayerFormats(weight=MXInt()))
        >>> layer(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 32])
    """

    kind: ClassVar[str] = "Embedding"
    plain_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        *,
        formats: LayerFormats,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Embedding.__init__(
            self,
            num_embeddings,
            embedding_dim,
            padding_idx,
            scale_grad_by_freq=scale_grad_by_freq,
            device=device,
            dtype=dtype,
        )
        self._add_formats(LayerFormats(weight=formats.weight))

    def learn_by_format(self, formats: Learned) -> None:
        """Have scales of each format of the rows."""
        super().learn_by_format({"weight": formats.get("weight", ())})

    def switch(self, formats: LayerFormats) -> None:
        """Round the rows to another format from now on."""
        super().switch(LayerFormats(weight=formats.weight))

    @staticmethod
    def arguments_of(layer: nn.Embedding) -> dict[str, Any]:
        """Constructor arguments of ``layer``.

        Raises:
            ValueError: If it renormalises its rows in place or has sparse gradients: the rounded
                table allows neither.
        """
        for name, value in (("max_norm", layer.max_norm), ("sparse", layer.sparse or None)):
            if value is not None:
                raise InputValueError(
                    f"QuantizedEmbedding: {name}={value} cannot be combined with rounding; "
                    f"make the embedding without {name}."
                )
        names = ("num_embeddings", "embedding_dim", "padding_idx", "scale_grad_by_freq")
        return {name: getattr(layer, name) for name in names}

    def forward(self, input: Tensor) -> Tensor:
        """Look up ``input``, int64 of any shape, giving ``(*input.shape, embedding_dim)``."""
        return nn.functional.embedding(
            input,
            self.rounded_weight(),
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )
